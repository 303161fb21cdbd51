from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import batch_norms
from backdoor_lab.defenses.rnp import RNP, Unlearning
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Engine
from tests.tiny import SPEC, Tiny, drawn_tiny, tiny_aux


@pytest.fixture
def model():
    return drawn_tiny()


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(40)


def defense(**changes):
    options = {
        "unlearn_epochs": 3, "unlearn_lr": 0.01, "unlearn_until": 0.0, "momentum": 0.9,
        "weight_decay": 5e-4, "recover_epochs": 2, "recover_lr": 0.2, "alpha": 0.2,
        "batch_size": 16, "threshold": 0.5, "acc_drop": 0.02,
    }  # fmt: skip
    rnp = RNP(**{**options, **changes})
    rnp.attach(Engine(accelerator="cpu", precision="32-true", progress=False), SPEC, 3)
    rnp.crop_flip = None
    return rnp


def pixels(aux):
    return aux.data.images.float() / 255, aux.data.labels


def close(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_a_step_of_unlearning_is_the_authors(model, aux):
    twin = deepcopy(model).train()
    descent = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    (-F.cross_entropy(twin(pixels(aux)[0]), pixels(aux)[1])).backward()
    descent.step()
    victim = deepcopy(model.state_dict())
    unlearned = defense(unlearn_epochs=1, batch_size=40).unlearn(model, aux.data)
    close(unlearned.state_dict(), twin.state_dict())
    assert all(torch.equal(value, victim[name]) for name, value in model.state_dict().items())


def test_unlearning_raises_the_loss_and_tells_its_accuracy(model, aux):
    images, labels = pixels(aux)
    unlearned = defense(unlearn_epochs=5, unlearn_lr=0.1).unlearn(model, aux.data).train()
    before = F.cross_entropy(deepcopy(model).train()(images), labels)
    assert F.cross_entropy(unlearned(images), labels) > before + 0.5
    still = defense(unlearn_epochs=1, unlearn_lr=1e-9, batch_size=40)
    still.unlearn(model, aux.data)
    met = deepcopy(model).train()(images).argmax(1)  # under the batch's statistics
    assert still.details["unlearnt_accuracy"] == pytest.approx((met == labels).float().mean())


@pytest.mark.parametrize(("until", "epochs"), [(1.0, 1), (0.0, 3)])
def test_unlearning_stops_when_an_epoch_s_accuracy_is_low_enough(
    model, aux, monkeypatch, until, epochs
):
    steps, original = [], Unlearning.training_step

    def counted(self, batch, batch_idx):
        steps.append(batch_idx)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Unlearning, "training_step", counted)
    rnp = defense(unlearn_until=until, unlearn_lr=1e-9)
    rnp.unlearn(model, aux.data)
    assert len(steps) == 3 * epochs
    assert rnp.details["unlearnt"] == (until == 1.0)


def test_the_rate_falls_to_a_tenth_after_ten_and_twenty_epochs():
    made = defense(unlearn_epochs=25).unlearning.optimizers([nn.Parameter(torch.zeros(1))], 1)
    rates = []
    for _ in range(21):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([0.01] * 10 + [0.001] * 10 + [0.0001])


def test_a_step_of_recovery_is_the_authors(model, aux):
    twin = deepcopy(model).train()
    F.cross_entropy(twin(pixels(aux)[0]), pixels(aux)[1]).backward()
    rnp = defense(recover_epochs=1, batch_size=40, recover_lr=5.0)
    masks = rnp.learn(model, aux.data)
    for name, norm in batch_norms(twin).items():  # dCE/dm = gamma dCE/dgamma at m = 1
        expected = (1 - 5 * 0.2 * norm.weight * norm.weight.grad).clamp(0, 1)
        torch.testing.assert_close(masks[name], expected.detach(), rtol=1e-4, atol=1e-5)
    values = torch.cat(list(masks.values()))
    assert (values < 1).any()
    assert (values == 1).any()


def test_masks_are_recovered_from_the_unlearned_model_and_stay_in_range(model, aux, monkeypatch):
    seen, original = [], RNP.training_step

    def looked(self, batch, batch_idx):
        seen.append(self.model.state_dict()["head.weight"].clone())
        assert self.model.training
        loss = original(self, batch, batch_idx)
        assert all(((mask >= 0) & (mask <= 1)).all() for mask in self.masks)
        return loss

    monkeypatch.setattr(RNP, "training_step", looked)
    defense(recover_lr=20.0).search(model, aux.data)
    unlearned = defense().unlearn(model, aux.data)
    assert len(seen) == 6
    assert all(torch.equal(weight, unlearned.head.weight) for weight in seen)
    assert not torch.equal(unlearned.head.weight, model.head.weight)


def test_a_pruned_channel_of_the_victim_is_the_constant_beta(model, aux):
    rnp = defense(recover_lr=20.0, threshold=0.9)
    before = deepcopy(model.state_dict())
    purified = rnp.purify(model, aux)
    weights = purified.state_dict()
    changed = {name for name in before if not torch.equal(before[name], weights[name])}
    assert changed <= {"body.1.weight", "body.4.weight"}
    norm = purified.body[1]
    off = norm.weight == 0
    count = sum(int((norm.weight == 0).sum()) for norm in batch_norms(purified).values())
    assert rnp.details["pruned"] == count > 0
    out = norm(torch.randn(2, 8, 4, 4)).transpose(0, 1).flatten(1)
    assert torch.equal(out[off], norm.bias[off][:, None].expand(-1, 32))


def test_the_threshold_loses_no_more_than_two_points(model, aux, monkeypatch):
    rnp = defense(threshold=None)
    lost = {0.9: 0.03, 0.85: 0.021, 0.8: 0.02}
    masks = {"body.1": torch.linspace(0, 1, 21)[13:], "body.4": torch.linspace(0, 1, 21)[13:]}

    def accuracy(trial, held):
        highest = max([0.65, *(masks["body.1"][trial.body[1].weight == 0]).tolist()])
        return 0.95 - lost.get(round(highest, 2), 0.0)

    monkeypatch.setattr(rnp.engine, "accuracy", accuracy)
    assert rnp.choose(model, masks, aux.data) == 0.8
    monkeypatch.setattr(rnp, "enough", lambda accuracy: 1.0)
    assert rnp.choose(model, masks, aux.data) is None


def test_without_a_harmless_threshold_the_victim_stays(model, aux, monkeypatch):
    rnp = defense(threshold=None)
    monkeypatch.setattr(rnp, "choose", lambda model, masks, held: None)
    assert rnp.purify(model, aux) is model
    assert rnp.details["pruned"] == 0


def test_each_value_counts(model, aux):
    masks = {}
    for name, changes in {
        "plain": {}, "unlearn_lr": {"unlearn_lr": 0.05}, "weight_decay": {"weight_decay": 0.5},
        "unlearn_epochs": {"unlearn_epochs": 1}, "recover_epochs": {"recover_epochs": 1},
        "recover_lr": {"recover_lr": 1.0}, "alpha": {"alpha": 1.0}, "momentum": {"momentum": 0.1},
        "batch_size": {"batch_size": 20},
    }.items():  # fmt: skip
        masks[name] = torch.cat([*defense(**changes).search(model, aux.data).values()])
    assert all(not torch.equal(masks["plain"], masks[n]) for n in masks if n != "plain")


def test_refusals(aux):
    single = AuxiliarySet("seen", aux.data.take(torch.tensor([0, 1])), True)
    with pytest.raises(ConfigError, match="no class has two"):
        defense(threshold=None).purify(Tiny(), single)
    defense(threshold=0.2).check_size(2)
    with pytest.raises(ConfigError, match=r"3 image\(s\), but defense=rnp"):
        defense(threshold=None).check_size(3)
    for bad in ({"unlearn_until": 1.1}, {"alpha": 0}, {"threshold": -1}):
        with pytest.raises(ValidationError, match=next(iter(bad))):
            defense(**bad)
