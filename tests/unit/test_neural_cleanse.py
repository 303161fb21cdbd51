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
from backdoor_lab.detectors.neural_cleanse.triggers import Inverted

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


def detector(engine, **changes):
    options = SEARCH | {"images": 40, "held_out": 0.25, "batch_size": 32, "at_once": 100}
    made = NeuralCleanse(**options | {"threshold": None} | changes)
    made.attach(engine, SPEC, seed=0)
    return made


def unlabelled(images):
    data = ImageSet.of((images * 255).to(torch.uint8), torch.zeros(len(images)))
    return AuxiliarySet("seen", data, False)


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


def test_images_that_are_taken_for_the_class_already_do_not_count_for_it():
    model, images = toy(0)
    images[:38, :, :, 3] += 0.4
    others = images[model(images).argmax(1) != 3]
    assert len(others) < 0.4 * len(images)
    search = SEARCH | {"passes": 20, "success": 0.5}
    every, some = (inverted(model, one, [3], search) for one in (images, others))
    torch.testing.assert_close(every.mask, some.mask, atol=1e-5, rtol=0)
    torch.testing.assert_close(every.pattern, some.pattern, atol=1e-5, rtol=0)


def test_a_class_that_most_images_are_of_is_not_reached_by_them():
    answers = torch.tensor([0] * 6 + [1] * 4)

    def stubborn(images):
        fixed = torch.eye(2)[answers].repeat(len(images) // 10, 1)
        return fixed + 0 * images.sum((1, 2, 3))[:, None]

    start = torch.full((1, 4, 4), 0.5), torch.full((1, 4, 4), 0.5)
    search = SEARCH | {"passes": 2, "success": 0.1}
    parts = [(torch.zeros(10, 1, 4, 4), answers)]
    assert not invert(stubborn, parts, torch.tensor([0, 1]), start, search).converged.any()


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
    made = detector(engine, passes=30)
    found = made.inspect(model, unlabelled(images))
    assert "5" in found.details["not_converged"]
    assert found.details["success"]["5"] == 0
    assert found.details["success"]["0"] > 0.9
    assert found.details["images"] == 40
    assert found.details["held_out"] == 16
    assert set(made.shown) == {"mask", "trigger"}
    assert all(rows.shape == (10, 1, 10, 10) for rows in made.shown.values())


def test_the_planted_class_is_flagged_by_both_rules(engine):
    model, images = toy(0)
    made = detector(engine, passes=300, batch_size=64, at_once=1000)
    found = made.inspect(model, unlabelled(images))
    assert found.verdict == "flagged"
    assert found.suspected[0] == "0"
    assert found.reference.flagged
    assert found.reference.classes[0] == "0"
    assert found.foremost == "0"


def test_the_calibrated_rule_is_of_logarithms(engine, monkeypatch):
    """Norms that spread have their median too near to 0 for any to lie far below it."""
    norms = torch.tensor([20.0, 30, 40, 0.5, 50, 60, 70, 80, 90, 100])
    mask = (norms / 100).view(10, 1, 1, 1).expand(10, 1, 10, 10)
    known = Inverted(mask, mask, torch.ones(10).bool())
    monkeypatch.setattr(NeuralCleanse, "invert_all", lambda *_: known)
    model, images = toy(0)
    found = detector(engine).inspect(model, unlabelled(images))
    assert list(found.scores.values()) == pytest.approx(norms.tolist())
    assert not found.reference.flagged
    assert found.suspected == ("3",)
    assert found.calibrated.value == found.scalar == pytest.approx(mad_indices(norms.log())[3])
