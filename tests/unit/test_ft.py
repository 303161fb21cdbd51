"""Fine-tuning, and the two controls made of it."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses.ft import FT
from backdoor_lab.defenses.ft_matched import FTMatched
from backdoor_lab.defenses.ft_tuned import FTTuned, strongest
from backdoor_lab.errors import ConfigError, DivergedError
from backdoor_lab.run.parts import Parts
from backdoor_lab.training import sgd
from tests.tiny import SPEC, drawn_tiny, tiny_aux


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(40)


def attached(defense, engine):
    defense.attach(engine, SPEC, 7)
    return defense


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_patience_takes_the_place_of_the_cosine():
    for patience, kind in ((None, CosineAnnealingLR), (10, ReduceLROnPlateau)):
        ft = FT(1, 0.01, 0.9, 5e-4, 8, 100, patience)
        made = ft.recipe.optimizers([torch.nn.Parameter(torch.zeros(1))], 1)
        assert isinstance(made["lr_scheduler"]["scheduler"], kind)


def test_a_patience_goes_through_a_training(tiny, aux, engine):
    purified = attached(FT(2, 0.01, 0.9, 5e-4, 8, None, 0), engine).purify(tiny, aux)
    assert purified.body[1].num_batches_tracked == 10


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_without_a_rate_and_with_batch_norm_in_eval_mode_nothing_changes(aux, engine, rate):
    """A rate of 0 is no value of `ft`; at any other all weights change, and statistics do not."""
    model = drawn_tiny()
    before = deepcopy(model.state_dict())
    for norm in (model.body[1], model.body[4]):
        norm.frozen = True
    ft = attached(FT(2, 0.01, 0.9, 5e-4, 8, None), engine)
    ft.recipe = replace(ft.recipe, optimizer=lambda weights, lr: sgd(0.9, 5e-4)(weights, lr=rate))
    after = ft.purify(model, aux).state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert before.keys() == after.keys()
    assert changed == ({name for name, _ in model.named_parameters()} if rate else set())


@pytest.mark.parametrize("like", ["unibp", "unibp_random", "ft", "bcu", "pam"])
def test_matched_takes_the_values_of_its_neighbour_as_they_are_here(config, like):
    tiny = ["protocol=bb", "dataset=tiny_imagenet"]
    for chosen in (["dataset=digits"], ["dataset=cifar10"], ["protocol=unibp"], tiny):
        there = config(f"defense={like}", *chosen).defense
        here = config("defense=ft_matched", f"defense.like={like}", *chosen).defense
        for key in ("epochs", "lr", "batch_size", "momentum"):
            assert here[key] == there[key], key
        assert here.weight_decay == there.get("weight_decay", 0)
        assert here.lr_floor == there.get("lr_floor", 0)
        assert here.t_max == there.get("t_max")
        assert here.patience == there.get("patience")
        assert here.rounds == there.get("rounds", 1)


def test_matched_stands_behind_another_defense(config):
    cfg = config("defense=clp", "defense@then=ft_matched", "then.like=bcu", "then.lr=0.5")
    assert (cfg.then.lr, cfg.then.epochs) == (0.5, 60)
    assert Parts.of(cfg).defense.links[1].details == {
        "like": "bcu", "epochs": 60, "lr": 0.5, "batch_size": 32,
    }  # fmt: skip


@pytest.mark.parametrize("like", ["clp", "anp", "none", "ft_tuned", "uinbp"])
def test_matched_refuses_a_neighbour_that_does_not_fine_tune(config, like):
    for key, first in (("defense", "ft_matched"), ("then", "clp")):
        cfg = config(f"defense={first}", "defense@then=ft_matched", f"{key}.like={like}")
        with pytest.raises(ConfigError, match=rf"^{key}\.like={like} .*: .* unibp") as refusal:
            Parts.of(cfg)
        assert len(str(refusal.value).splitlines()) == 1


def test_matched_trains_as_often_and_falls_as_its_neighbour_does():
    often = FTMatched("pam", 30, 3, 0.01, 128, 0.0, None, None, 0.1, 0.0)
    assert (often.recipe.epochs, often.details["epochs"]) == (90, 90)
    for patience, kind in ((None, CosineAnnealingLR), (10, ReduceLROnPlateau)):
        matched = FTMatched("fp", 200, 1, 0.01, 256, 0.0, 100, patience, 0.9, 5e-4)
        made = matched.recipe.optimizers([torch.nn.Parameter(torch.zeros(1))], 1)
        assert isinstance(made["lr_scheduler"]["scheduler"], kind)


def test_matched_is_ft_at_these_values(tiny, aux, engine):
    plain = attached(FT(2, 0.02, 0.9, 1e-3, 8, None), engine).purify(deepcopy(tiny), aux)
    matched = FTMatched("bcu", 2, 1, 0.02, 8, 0.0, None, None, 0.9, 1e-3)
    assert same(attached(matched, engine).purify(tiny, aux).state_dict(), plain.state_dict())


def test_strongest_is_the_highest_that_is_harmless_else_the_most_accurate():
    tried = {(0.01, 4): 0.9, (0.1, 4): 0.88, (0.03, 4): 0.7, (1.0, 4): 0.2}
    assert strongest(tried, 0.88) == (0.1, 4)
    assert strongest(tried, 0.89) == (0.01, 4)
    assert strongest(tried, 0.95) == (0.01, 4)
    assert strongest({(0.1, 2): 0.8, (0.1, 8): 0.8, (0.1, 16): 0.7}, 0.8) == (0.1, 8)


def tuned(engine, **changes):
    options = {
        "rates": [0.001, 0.01, 0.1], "lengths": [0.5, 1, 2], "acc_drop": 0.02, "epochs": 2,
        "momentum": 0.9, "weight_decay": 0.0, "batch_size": 8,
    }  # fmt: skip
    return attached(FTTuned(**options | changes), engine)


def test_tuned_tries_rates_then_lengths_and_trains_with_all_images(tiny, aux, engine, monkeypatch):
    seen = []
    fit = FTTuned.fit

    def recorded(self, model, data, *rest):
        seen.append((self.recipe.lr, self.recipe.epochs, len(data)))
        return fit(self, model, data, *rest)

    monkeypatch.setattr(FTTuned, "fit", recorded)
    scripted = iter([0.9, 0.9, 0.89, 0.5, 0.9, 0.7])  # victim, three rates, two more lengths
    patched = deepcopy(engine)
    monkeypatch.setattr(patched, "accuracy", lambda model, data: next(scripted))
    before = deepcopy(tiny)
    defense = tuned(patched)
    purified = defense.purify(tiny, aux)
    assert seen == [
        (0.001, 2, 20), (0.01, 2, 20), (0.1, 2, 20), (0.01, 1, 20), (0.01, 4, 20), (0.01, 2, 40),
    ]  # fmt: skip
    assert (defense.details["lr"], defense.details["epochs"]) == (0.01, 2)
    assert defense.details["harmless"] is True
    assert len(defense.details["tried"]) == 5
    final = attached(FT(2, 0.01, 0.9, 0.0, 8, None), engine).purify(before, aux)
    assert same(purified.state_dict(), final.state_dict())


def test_tuned_says_when_every_setting_costs_accuracy(tiny, aux, engine, monkeypatch):
    patched = deepcopy(engine)
    scripted = iter([0.9, 0.5, 0.6, 0.1, 0.7, 0.2])
    monkeypatch.setattr(patched, "accuracy", lambda model, data: next(scripted))
    defense = tuned(patched)
    defense.purify(tiny, aux)
    assert (defense.details["lr"], defense.details["epochs"]) == (0.01, 1)
    assert defense.details["harmless"] is False


def test_tuned_takes_a_rate_that_diverges_for_a_harmful_one(tiny, aux, engine):
    defense = tuned(engine, rates=[0.01, 1e30], lengths=[1])
    defense.purify(tiny, aux)
    assert defense.details["lr"] == 0.01
    assert {one["lr"]: one["accuracy"] for one in defense.details["tried"]}[1e30] == 0
    with pytest.raises(DivergedError, match="not finite"):
        tuned(engine, rates=[1e30], lengths=[1]).purify(tiny, aux)


@pytest.mark.parametrize("bad", ["defense.rates=[]", "defense.lengths=[]"])
def test_tuned_needs_something_to_try(config, bad):
    with pytest.raises(InstantiationException, match=bad.split("=")[0].rpartition(".")[2]):
        instantiate(config("defense=ft_tuned", bad).defense)


def test_tuned_needs_images_to_choose_by(tiny, aux, engine):
    single = AuxiliarySet("seen", aux.data.take(torch.tensor([0, 1])), True)
    with pytest.raises(ConfigError, match="no class has two"):
        tuned(engine).purify(tiny, single)
    with pytest.raises(ConfigError, match=r"3 image\(s\).*allowed: 4"):
        tuned(engine).check_size(3)


def test_tuned_takes_length_and_batch_of_ft(config):
    cfg = config("defense=ft_tuned", "protocol=unibp").defense
    assert (cfg.epochs, cfg.batch_size) == (20, 256)
    defense = partial(instantiate, _convert_="all")({k: cfg[k] for k in cfg if k != "facts"})
    assert defense.lengths == [10, 20, 40]
