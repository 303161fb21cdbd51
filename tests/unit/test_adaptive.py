"""Adaptive: what is scaled in which training, and after which epochs."""

from dataclasses import replace

import pytest
import torch

from backdoor_lab.attacks.adaptive import Adaptive
from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.attacks.input_aware import InputAware
from backdoor_lab.attacks.lira import LIRA
from backdoor_lab.attacks.sbl import SBL
from backdoor_lab.callbacks import rank_scaling
from backdoor_lab.models.rank_scaling import convolutions, scale_rank_components
from backdoor_lab.training import Recipe
from backdoor_lab.victims import Workshop

RECIPE = Recipe(epochs=1, batch_size=30, lr=0.01)


@pytest.fixture
def kernels(monkeypatch):
    """The kernels that are handed to the scaling."""
    seen = []

    def watched(weight, tau, factors):
        seen.append(weight)
        return scale_rank_components(weight, tau, factors)

    monkeypatch.setattr(rank_scaling, "scale_rank_components", watched)
    return seen


def trained(inner, shop, model, epochs=1, **options):
    attack = Adaptive(inner, **{"tau": 1} | options)
    attack.attach(shop.data.spec, replace(RECIPE, epochs=epochs), seed=0)
    return attack, attack.train_victim(model, shop)


@pytest.mark.parametrize(("include_last", "calls"), [(True, 2), (False, 1)])
def test_every_convolution_is_scaled_once_an_epoch(shop, model, kernels, include_last, calls):
    attack, _ = trained(BadNets(0.1, 0), shop, model, 2, include_last=include_last)
    expected = [convolution.weight for _, convolution in convolutions(model)] * calls
    assert [id(kernel) for kernel in kernels] == [id(kernel) for kernel in expected]
    assert len(attack.details["scaled_components"]) == calls


def test_nothing_comes_after_the_last_scaling(shop, model, monkeypatch):
    made = []

    def watched(*given):
        made.append(scale_rank_components(*given))
        return made[-1]

    monkeypatch.setattr(rank_scaling, "scale_rank_components", watched)
    trained(BadNets(0.1, 0), shop, model)
    for (kernel, _), (_, convolution) in zip(made, convolutions(model), strict=True):
        assert torch.equal(kernel, convolution.weight)


def test_generators_that_train_with_the_victim_are_not_scaled(shop, model, kernels):
    inner = InputAware(0.1, 0, width=4, mask_epochs=1, count_mask_epochs=False)
    attack, _ = trained(inner, shop, model, 2)
    own = {id(convolution.weight) for _, convolution in convolutions(model)}
    assert {id(kernel) for kernel in kernels} == own
    assert len(kernels) == 2 * len(own)
    assert len(attack.details["scaled_components"]) == 2
    assert sum(attack.details["scaled_components"]) > 20
    assert "masks" in attack.details


@pytest.fixture
def asked(monkeypatch):
    """The artifacts that were asked for: part, the settings' callbacks, name."""
    seen = []
    make_once = Workshop.make_once

    def watched(self, attack, part, module, settings, make):
        made = make_once(self, attack, part, module, settings, make)
        seen.append((part, settings["callbacks"], made.name))
        return made

    monkeypatch.setattr(Workshop, "make_once", watched)
    return seen


@pytest.mark.parametrize(
    ("build", "part", "stage"),
    [
        (
            lambda: SBL(BadNets(0.5, 0), 0.4, first_epochs=1, second_epochs=1),
            "sbl_first_stage",
            lambda details: details["first_stage_scaled"],
        ),
        (
            lambda: LIRA(0, stage1_epochs=1),
            "lira_generator",
            lambda details: details["stage1"]["scaled"],
        ),
    ],
)
def test_first_stages_are_scaled_too_and_kept_apart(
    shop, model, kernels, asked, monkeypatch, build, part, stage
):
    monkeypatch.setitem(shop.identity, "model", "tiny adaptive")
    attack, _ = trained(build(), shop, model)
    assert len(kernels) == 2 * len(list(convolutions(model)))
    assert len(attack.details["scaled_components"]) == 1  # of the victim's own training
    assert len(stage(attack.details)) == 1
    kernels.clear()
    plain = build()
    plain.attach(shop.data.spec, RECIPE, seed=0)
    plain.train_victim(model, shop)
    assert kernels == []
    assert [one[:2] for one in asked] == [
        (part, ["RankScaling(1.0, 'centred', True, False)"]), (part, []),
    ]  # fmt: skip
    assert asked[0][2] != asked[1][2]
