from copy import deepcopy
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf

from backdoor_lab.callbacks.fisher_scores import FisherScores
from backdoor_lab.callbacks.masked_gradients import MaskedGradients
from backdoor_lab.defenses._statistics import input_statistics, running_statistics
from backdoor_lab.defenses.ft_matched import FTMatched
from backdoor_lab.defenses.unibp import UniBP
from backdoor_lab.defenses.unibp.entries import top_entries
from backdoor_lab.defenses.unibp.rectification import (
    Rectifier,
    bn_distance,
    reset_affine,
)
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import SAM, Engine, Recipe, Tuning, sgd
from tests.tiny import SPEC, drawn_tiny, tiny_aux


def engine():
    return Engine(accelerator="cpu", precision="32-true", progress=False)


@pytest.fixture
def model():
    return drawn_tiny()


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(24)


def defense(**changes):
    options = {
        "k_mode": "absolute", "k": 5, "granularity": "entry", "value": "reset", "sigma": 0.01,
        "resample": "never", "scores": "fisher", "fisher": "training", "reset": True,
        "rectify": {"epochs": 1, "lr": 0.001}, "bn_weight": 1.0, "var_weight": 0.05,
        "prune_from": "victim", "detach_var": False, "mask": True, "freeze_statistics": False,
        "epochs": 2, "lr": 0.05, "lr_floor": 0.01, "momentum": 0.9,
        "weight_decay": 0.1, "batch_size": 8,
    }  # fmt: skip
    unibp = UniBP(**{**options, **changes})
    unibp.attach(engine(), SPEC, 1)
    return unibp


def test_the_k_largest_scores_are_chosen():
    scores = {"a.weight": torch.tensor([5.0, 1, 3]), "a.bias": torch.tensor([4.0, 3, 0])}
    chosen = top_entries(scores, 3)
    assert chosen["a.weight"].tolist() == [True, False, True]  # a tie goes to the earlier entry
    assert chosen["a.bias"].tolist() == [True, False, False]
    assert top_entries(scores, 2, "gamma")["a.weight"].tolist() == [True, False, True]
    assert not top_entries(scores, 2, "gamma")["a.bias"].any()
    assert top_entries(scores, 2, "beta")["a.bias"].tolist() == [True, True, False]
    channel = top_entries(scores, 4, "channel")
    assert channel["a.weight"].tolist() == channel["a.bias"].tolist() == [True, True, False]
    assert not any(entries.any() for entries in top_entries(scores, 0).values())


def test_k_modes(model):
    total = sum(p.numel() for p in model.parameters())
    assert defense(k_mode="ratio_affine", k=0.25).count(model) == 8
    assert defense(k_mode="ratio_total", k=0.01).count(model) == int(0.01 * total)
    assert defense(k=3).count(model) == 3


@pytest.mark.parametrize(
    ("changes", "means"),
    [
        ({"k": 32}, "32 of 32"),
        ({"k": 16, "granularity": "gamma"}, "16 of 16"),
        ({"k": 1, "granularity": "channel"}, "0 of 16"),
        ({"k": 1e-9, "k_mode": "ratio_affine"}, "0 of 32"),
        ({"k": 1.0, "k_mode": "ratio_total"}, "of 32"),
    ],
)
def test_k_out_of_range_is_refused_before_anything_trains(model, changes, means):
    with pytest.raises(ConfigError, match=rf"defense\.k=.* means .*{means}"):
        defense(**changes).check_model(model)
    defense(k=0).check_model(model)
    defense(k=31).check_model(model)


def test_reset_touches_the_affine_entries_alone(model):
    reset = reset_affine(deepcopy(model))
    changed = {
        n for n, t in reset.state_dict().items() if not torch.equal(t, model.state_dict()[n])
    }
    assert changed == {f"body.{n}.{e}" for n in (1, 4) for e in ("weight", "bias")}


def test_equal_statistics_give_a_distance_of_nought_and_a_finite_gradient(model):
    images = torch.rand(6, 3, 8, 8)
    with input_statistics(model.train(), detach_var=False) as seen:
        model(images)
    stored = {name: (mean.detach(), var.detach()) for name, (mean, var) in seen.items()}
    distance = bn_distance(seen, stored)
    assert distance.item() < 1e-5
    (distance + 1e-12).log().backward()
    assert model.body[0].weight.grad.isfinite().all()
    entering = model.body[0](images)
    assert torch.allclose(seen["body.1"][0], entering.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(seen["body.1"][1], entering.var((0, 2, 3), correction=0), atol=1e-6)
    far = {name: (mean + 3, var + 4) for name, (mean, var) in stored.items()}
    assert bn_distance(stored, far).item() == pytest.approx(8**0.5 * (3 + 0.05 * 4), rel=1e-4)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_rectifier_adds_the_logarithm_of_the_distance(model):
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 2
    module = Rectifier(model.train(), Recipe(1, 6, 0.01), None, 0)
    module.stored, module.bn_weight, module.var_weight = running_statistics(model), 0.7, 0.05
    stored = {name: (m.clone(), v.clone()) for name, (m, v) in module.stored.items()}
    module.stored = stored
    with input_statistics(model, detach_var=False) as module.statistics:
        found = module.training_step((images, labels), 0)
        plain = torch.nn.functional.cross_entropy(model(images), labels)
    distance = bn_distance(module.statistics, stored, 0.05)
    assert found.item() == pytest.approx((plain + 0.7 * distance.log()).item(), rel=1e-5)


@pytest.mark.parametrize("detach_var", [False, True])
def test_a_detached_variance_has_no_gradient(model, detach_var):
    with input_statistics(model.train(), detach_var) as seen:
        model(torch.rand(6, 3, 8, 8))
    assert all(mean.requires_grad for mean, _ in seen.values())
    assert all(var.requires_grad != detach_var for _, var in seen.values())


def test_fisher_scores_are_weighted_squared_gradients(model, aux):
    seen = []

    class Recorded(Tuning):
        def on_before_optimizer_step(self, optimizer):
            seen.append(self.model.body[1].weight.grad.clone())

    fisher = FisherScores(["body.1.weight"], 24)
    module = Recorded(model.train(), Recipe(1, 16, 0.01), None, 0)
    engine().fit(module, aux.data, "t", [fisher])
    expected = 16 / 24 * seen[0] ** 2 + 8 / 24 * seen[1] ** 2
    assert torch.allclose(fisher.scores["body.1.weight"], expected)


def test_fisher_scores_under_sam_are_those_of_the_first_pass(model, aux):
    batches = aux.data.images[:8].float() / 255, aux.data.labels[:8]
    plain = deepcopy(model).train()
    torch.nn.functional.cross_entropy(plain(batches[0]), batches[1]).backward()
    expected = plain.body[1].weight.grad ** 2
    fisher = FisherScores(["body.1.weight"], 8)
    module = Tuning(model, Recipe(1, 8, 0.01, partial(SAM, rho=0.5)), None, 0)
    engine().fit(module, aux.data.take(torch.arange(8)), "t", [fisher])
    torch.testing.assert_close(fisher.scores["body.1.weight"], expected, rtol=1e-4, atol=1e-7)


def test_masked_entries_keep_their_value_under_weight_decay(model, aux):
    held = {"body.1.weight": torch.arange(8) < 3}
    before = deepcopy(model.state_dict())
    module = Tuning(model.train(), Recipe(2, 8, 0.1, sgd(0.9, weight_decay=0.1)), None, 0)
    engine().fit(module, aux.data, "t", [MaskedGradients(held)])
    after = model.state_dict()
    assert torch.equal(after["body.1.weight"][:3], before["body.1.weight"][:3])
    assert (after["body.1.weight"][3:] != before["body.1.weight"][3:]).all()
    assert all(not torch.equal(after[n], before[n]) for n in before)


@pytest.mark.parametrize("value", ["reset", "noise", "zero"])
def test_pruned_entries_get_their_value_and_keep_it(model, aux, value, monkeypatch):
    chosen = []
    prune = UniBP.prune
    start = {}

    def recorded(self, pruned_model, entries):
        prune(self, pruned_model, entries)
        chosen.append(entries)
        start.update(deepcopy(pruned_model.state_dict()))

    monkeypatch.setattr(UniBP, "prune", recorded)
    unibp = defense(value=value)
    purified = unibp.purify(model, aux)
    assert purified is model
    assert unibp.details["k"] == 5 == sum(unibp.details["per_layer"].values())
    after = purified.state_dict()
    for name, entries in chosen[0].items():
        assert torch.equal(after[name][entries], start[name][entries])
        if value != "noise":
            expected = float(value == "reset" and name.endswith("weight"))
            assert (after[name][entries] == expected).all()
        assert (after[name][~entries] != start[name][~entries]).all()
    assert not torch.equal(after["body.0.weight"], start["body.0.weight"])
    assert not torch.equal(after["body.1.running_mean"], start["body.1.running_mean"])


def test_other_readings_run(model, aux):
    rectify = OmegaConf.create({"epochs": 1, "lr": 0.001})
    random = defense(scores="random", rectify=rectify, detach_var=True, epochs=1)
    random.purify(deepcopy(model), aux)
    rectified = defense(prune_from="rectified", granularity="channel", k=4, epochs=1)
    purified = rectified.purify(model, aux)
    assert purified is not model
    assert purified.state_dict().keys() == model.state_dict().keys()
    assert rectified.details["k"] == 4


def purified(model, aux, **changes):
    """State of a copy of `model` after UniBP with `changes`, and the defense."""
    unibp = defense(**changes)
    unibp.check(has_images=True, labelled=True)
    return unibp.purify(deepcopy(model), aux).state_dict(), unibp


def scores_of(model, aux, **changes):
    return defense(**changes).rectify(model, aux.data)[1]


def differ(first, second):
    return {name for name, value in first.items() if not torch.equal(value, second[name])}


def test_without_k_it_is_fine_tuning_at_its_own_settings(model, aux):
    found, unibp = purified(model, aux, k=0)
    control = FTMatched("unibp", 2, 1, 0.05, 8, 0.01, None, None, 0.9, 0.1)
    control.attach(engine(), SPEC, 1)
    assert not differ(found, control.purify(deepcopy(model), aux).state_dict())
    assert unibp.details["k"] == 0


def test_pruning_alone_changes_the_pruned_entries_alone(model, aux):
    found, unibp = purified(model, aux, epochs=0, value="zero")
    changed = differ(found, model.state_dict())
    assert changed == set(unibp.details["per_layer"])
    pruned = sum(int((found[n] != model.state_dict()[n]).sum()) for n in changed)
    assert pruned == unibp.details["k"] == 5


def test_random_scores_prune_as_many_entries_but_others_by_the_seed_alone(model, aux):
    def gone(victim, seed=1, **changes):
        """Layer and place of each pruned entry."""
        unibp = defense(epochs=0, value="zero", **changes)
        unibp.seed = seed
        found = unibp.purify(deepcopy(victim), aux).state_dict()
        return {
            (name, place)
            for name, value in victim.state_dict().items()
            for place in (value != found[name]).nonzero().flatten().tolist()
        }

    drawn = gone(model, scores="random")
    assert len(drawn) == len(gone(model)) == 5
    assert drawn != gone(model)
    assert drawn != gone(model, seed=2, scores="random")
    other = deepcopy(model)
    with torch.no_grad():
        other.head.weight.mul_(-3)
    assert drawn == gone(other, scores="random")


def test_without_the_mask_pruned_entries_move(model, aux):
    start, _ = purified(model, aux, epochs=0)
    held, unibp = purified(model, aux)
    free, _ = purified(model, aux, mask=False)
    for name, count in unibp.details["per_layer"].items():
        assert (held[name] == start[name]).sum() == count
        assert not (free[name] == start[name]).any()


def test_frozen_statistics_stay(model, aux):
    found, _ = purified(model, aux, freeze_statistics=True)
    before = model.state_dict()
    stay = {name for name in before if "running" in name or "batches" in name}
    assert not differ({name: found[name] for name in stay}, before)
    assert not torch.equal(found["body.0.weight"], before["body.0.weight"])


@pytest.mark.parametrize(("each", "draws"), [("step", 6), ("epoch", 2)])
def test_noise_is_drawn_anew(model, aux, each, draws, monkeypatch):
    seen = []
    step = UniBP.training_step

    def watched(self, batch, batch_idx):
        seen.append(torch.cat([self.model.body[n].weight.detach().clone() for n in (1, 4)]))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(UniBP, "training_step", watched)
    defense(value="noise", resample=each, k=8, granularity="gamma").purify(model, aux)
    noise = [weights[weights.abs() < 0.06] for weights in seen]  # 24 images make 3 steps an epoch
    assert [len(one) for one in noise] == [8] * 6
    assert len({tuple(one.tolist()) for one in noise}) == draws


@pytest.mark.parametrize("changes", [{}, {"value": "noise", "mask": False}])
def test_fresh_noise_needs_noise_that_is_held(changes):
    with pytest.raises(ConfigError, match=r"defense\.resample=step"):
        defense(resample="step", **changes).check(has_images=True, labelled=True)


def test_a_floor_above_the_rate_is_refused_by_its_key():
    unibp = defense(lr=0.001, lr_floor=0.002)
    unibp.key = "then"
    with pytest.raises(ConfigError, match=r"then\.lr_floor=0\.002 .* then\.lr=0\.001"):
        unibp.check(has_images=True, labelled=True)


def test_what_is_left_out_of_the_rectification_changes_the_scores(model, aux):
    default = scores_of(model, aux)
    for changes in (
        {"reset": False},
        {"bn_weight": 0.0},
        {"var_weight": 1.0},
        {"fisher": "final"},
        {"rectify": {"epochs": 0, "lr": 0.001}},
    ):
        assert differ(scores_of(model, aux, **changes), default), changes


def test_without_bn_distance_the_scores_are_those_of_cross_entropy(model, aux):
    static = {"rectify": {"epochs": 0, "lr": 0.001}, "batch_size": 24, "reset": False}
    unibp = defense(bn_weight=0.0, **static)
    unibp.crop_flip = None
    before = deepcopy(model.state_dict())
    copy, scores = unibp.rectify(model, aux.data)
    plain = deepcopy(model).train()
    images = aux.data.images.float() / 255
    torch.nn.functional.cross_entropy(plain(images), aux.data.labels).backward()
    expected = plain.body[4].bias.grad ** 2
    torch.testing.assert_close(scores["body.4.bias"], expected, rtol=1e-3, atol=1e-7)
    counters = {f"body.{n}.num_batches_tracked" for n in (1, 4)}
    assert differ(copy.state_dict(), before) == counters  # a static score leaves the copy as it is
