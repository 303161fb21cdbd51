"""Mean and variance of features, and their gradients."""

import torch

from backdoor_lab.defenses._statistics import Moments


def test_moments_are_those_of_torch():
    features = torch.randn(4, 3, 5, 2) * 3 + 100
    mean, var = Moments.apply(features)
    wanted_var, wanted_mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, wanted_mean)
    torch.testing.assert_close(var, wanted_var)


def test_slopes_are_finite_differences():
    features = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Moments.apply, (features,))
    assert torch.autograd.gradgradcheck(Moments.apply, (features,))
