"""A kernel as core and factors, against numpy and against the dense convolution."""

import numpy as np
import pytest
import torch
from torch import nn

from backdoor_lab.models.rank_scaling import centred, scaled_form
from backdoor_lab.models.tucker import Tucker, tucker_size

SHAPES = [(12, 20, 3, 3), (64, 3, 3, 3), (3, 64, 3, 3), (16, 8, 1, 1), (10, 6, 5, 1)]


def kernel(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_all_ranks_give_the_kernel_and_its_singular_values(shape):
    weight, outputs, inputs, sides = kernel(shape), *shape[:2], shape[2] * shape[3]
    form = Tucker.of(weight)
    assert form.core.shape[:2] == (min(outputs, inputs * sides), min(inputs, outputs * sides))
    torch.testing.assert_close(form.kernel.float(), weight, atol=1e-5, rtol=0)
    exact = weight.double().numpy()
    rows = np.linalg.svd(exact.reshape(outputs, -1), compute_uv=False)
    columns = np.linalg.svd(exact.transpose(1, 0, 2, 3).reshape(inputs, -1), compute_uv=False)
    np.testing.assert_allclose(form.rows.numpy(), rows, atol=1e-10)
    np.testing.assert_allclose(form.columns.numpy(), columns, atol=1e-10)
    torch.testing.assert_close(form.core.flatten(1).norm(dim=1), form.rows)  # rows of the core
    torch.testing.assert_close(form.core.transpose(0, 1).flatten(1).norm(dim=1), form.columns)


CONVOLUTIONS = [
    nn.Conv2d(12, 20, 3, padding=1),
    nn.Conv2d(12, 20, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(12, 20, (3, 1), dilation=2, padding=(1, 0), padding_mode="reflect"),
    nn.Conv2d(12, 20, 1, stride=2),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=repr)
def test_three_layers_are_the_convolution(conv):
    images, form = torch.randn(2, 12, 9, 9), Tucker.of(conv.weight)
    torch.testing.assert_close(form.layers(conv)(images), conv(images), atol=1e-4, rtol=0)
    small = form.truncated(7, 5)
    layers = small.layers(conv)
    assert [tuple(layer.weight.shape[:2]) for layer in layers] == [(5, 12), (7, 5), (20, 7)]
    assert sum(layer.weight.numel() for layer in layers) == tucker_size(conv.weight.shape, 7, 5)
    found = layers(images)
    with torch.no_grad():
        conv.weight.copy_(small.kernel)
    torch.testing.assert_close(found, conv(images), atol=1e-4, rtol=0)


def test_no_layer_draws_random_numbers():
    state = torch.get_rng_state()
    Tucker.of(kernel((8, 8, 3, 3))).layers(nn.Conv2d(8, 8, 3))
    again = torch.get_rng_state()
    nn.Conv2d(8, 8, 3)
    assert not torch.equal(state, again)  # the convolution itself draws
    torch.set_rng_state(state)
    conv = nn.Conv2d(8, 8, 3)
    state = torch.get_rng_state()
    Tucker.of(conv.weight).layers(conv)
    assert torch.equal(state, torch.get_rng_state())


def test_factors_along_the_outputs_are_those_of_the_singular_values():
    form = Tucker.of(kernel((12, 20, 3, 3)))
    first = torch.linspace(0.5, 1, 12, dtype=torch.float64)
    scaled = form.scaled(first, torch.ones(20, dtype=torch.float64)).kernel
    found = np.linalg.svd(scaled.flatten(1).numpy(), compute_uv=False)
    np.testing.assert_allclose(found, (first * form.rows).sort(descending=True).values, atol=1e-10)


def orthogonal(values):
    """A kernel (N, N, 3, 3) whose unfoldings have these singular values, and equal ones."""
    left = torch.linalg.qr(kernel((len(values), len(values)), 1))[0]
    right = torch.linalg.qr(kernel((len(values), len(values)), 2))[0]
    spread = torch.full((9,), 1 / 3)
    return torch.einsum("or,r,ir,k->oik", left, values, right, spread).view(*left.shape, 3, 3)


def test_one_spike_shrinks_in_both_modes_and_the_others_stay():
    values = torch.ones(64)
    values[0] = 9
    form, count = scaled_form(Tucker.of(orthogonal(values)), 4, centred)
    both = torch.cat([values, values]).double()
    factor = 4 / ((9 - both.mean()) / both.std())
    assert count == 2
    assert factor < 0.9
    found = np.linalg.svd(form.kernel.flatten(1).numpy(), compute_uv=False)
    expected = torch.cat([9 * factor**2 * torch.ones(1), torch.ones(63)]).sort(descending=True)
    np.testing.assert_allclose(found, expected.values.numpy(), atol=1e-4)
