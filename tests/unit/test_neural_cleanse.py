"""Neural Cleanse: a planted toy, the rule of the weight, classes together and alone."""

import pytest
import torch
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.detectors._rules import mad_indices
from backdoor_lab.detectors.neural_cleanse import NeuralCleanse
from backdoor_lab.detectors.neural_cleanse.costs import Costs
from backdoor_lab.detectors.neural_cleanse.inversion import invert

COST = {"first": 1e-3, "patience": 5, "factor": 2.0}
SEARCH = {
    "passes": 600, "lr": 0.1, "momentum": 0.5, "success": 0.99, "gain": 1.0, "stop_after": 25,
    "cost": COST,
}  # fmt: skip
SPEC = DataSpec("toy", tuple("0123456789"), (1, 10, 10), (0.0,), (1.0,), 0, False)


def toy(seed):
    """Class k looks at column k; class 0 besides at a patch that all others pass over."""
    draw = torch.Generator().manual_seed(seed)
    weight = 0.02 * torch.randn((10, 10, 10), generator=draw)
    for label in range(10):
        weight[label, :, label] += 1
    weight[:, 6:9, 6:9] = 0
    weight[0, 6:9, 6:9] = 4
    bias = torch.zeros(10)
    bias[0] = -14.4
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 10))
    model[1].weight.data, model[1].bias.data = weight.flatten(1), bias
    images = torch.rand((64, 1, 10, 10), generator=draw) * 0.4 + 0.2
    return model.eval().requires_grad_(False), images


def inverted(model, images, targets, search=SEARCH, seed=0):
    draw = torch.Generator().manual_seed(seed)
    start = torch.rand((1, 10, 10), generator=draw), torch.rand((1, 10, 10), generator=draw)
    parts = [(images, model(images).argmax(1))]
    return invert(model, parts, torch.tensor(targets), start, search)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_planted_patch_is_found_by_its_size_and_place(seed):
    model, images = toy(seed)
    found = inverted(model, images, list(range(10)), seed=seed)
    assert found.converged.all()
    assert found.norm[0] < 2
    assert found.norm[1:].min() > 3
    assert found.mask[0, 0, 6:9, 6:9].sum() / found.norm[0] > 0.97
    assert mad_indices(found.norm).argmax() == 0
    assert mad_indices(found.norm)[0] > 2


def test_classes_together_and_alone_come_to_the_same():
    model, images = toy(0)
    search = SEARCH | {"passes": 20}
    together = inverted(model, images, [0, 1, 2], search)
    for target in range(3):
        alone = inverted(model, images, [target], search)
        torch.testing.assert_close(together.mask[target], alone.mask[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.pattern[target], alone.pattern[0], atol=1e-5, rtol=0)


def test_norms_go_with_their_classes():
    model, images = toy(0)
    search = SEARCH | {"passes": 40}
    first = inverted(model, images, [0, 1, 2, 3], search).norm
    second = inverted(model, images, [3, 1, 0, 2], search).norm
    torch.testing.assert_close(first[[3, 1, 0, 2]], second)


def test_the_weight_of_the_size_follows_successes_and_failures():
    costs, seen = Costs(1, COST), []
    for success in [True] * 11 + [False] * 5 + [True] * 5:
        costs.update(torch.tensor([success]))
        seen.append(round(costs.value.item(), 9))
    assert seen[:4] == [0] * 4
    assert seen[4:8] == [1e-3] * 4
    assert seen[8:13] == [2e-3] * 5  # the success that sets it counts as the first of five
    assert seen[15] == pytest.approx(2e-3 / 2**1.5, rel=1e-5)
    assert costs.settled.item()
    assert seen[20] == pytest.approx(4e-3 / 2**1.5, rel=1e-5)


def test_a_class_that_cannot_be_reached_is_said_not_to_converge(engine):
    model, images = toy(0)
    with torch.no_grad():
        model[1].bias[5] = -1000
    data = ImageSet.of((images * 255).to(torch.uint8), torch.zeros(64))
    options = dict(SEARCH, passes=30) | {"images": 40, "held_out": 0.25, "batch_size": 32}
    detector = NeuralCleanse(**options, threshold=None, at_once=100)
    detector.attach(engine, SPEC, seed=0)
    found = detector.inspect(model, AuxiliarySet("seen", data, False))
    assert "5" in found.details["not_converged"]
    assert found.details["success"]["5"] == 0
    assert found.details["success"]["0"] > 0.9
    assert found.details["images"] == 40
    assert found.details["held_out"] == 16
    assert set(detector.shown) == {"mask", "trigger"}
    assert all(rows.shape == (10, 1, 10, 10) for rows in detector.shown.values())
