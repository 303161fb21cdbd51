"""Planted controls: the ladder, what a batch becomes, when a planting ends."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.datasets import Data
from backdoor_lab.evaluation.examination import Examination
from backdoor_lab.evaluation.planting import Gardener, Rung, ladder
from backdoor_lab.evaluation.planting.training import Planting, UntilLearnt
from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.tasks.control import wilson
from backdoor_lab.training import Recipe

LESSONS = {
    "share": 0.2, "rates": [0.01, 0.05], "divergence": 1.0, "steps": 6, "every": 2, "asr": 0.95,
    "acc_drop": 0.02, "batch_size": 20, "momentum": 0.9, "weight_decay": 0.0,
}  # fmt: skip


@pytest.fixture
def attack(spec):
    made = BadNets(0.2, 3)
    made.attach(spec, Recipe(1, 20, 0.01), seed=0)
    return made


@pytest.fixture
def gardener(spec, images, engine):
    data = Data(spec, images, images.take(torch.arange(0)), images, "tiny", 60)

    def make(**changes):
        lessons = LESSONS | changes
        return Gardener(images, lambda one: Examination.of(data, one), engine, lessons, 0)

    return make


def test_the_ladder_goes_up_rates_then_the_kl_then_strengths():
    rungs = list(ladder(LESSONS, 2))
    assert rungs[:2] == [Rung(0, 0.01, 0.0), Rung(0, 0.05, 0.0)]
    assert rungs[2:4] == [Rung(0, 0.01, 1.0), Rung(0, 0.05, 1.0)]
    assert rungs[4:] == [Rung(1, 0.01, 1.0), Rung(1, 0.05, 1.0)]


def test_a_fifth_of_a_batch_is_triggered_and_none_of_the_target_class(attack):
    planting = Planting(nn.Identity(), attack, Recipe(1, 20, 0.01), 0.2, 0.0, 0)
    seen = {}

    def model(inputs):
        seen["inputs"] = inputs
        return inputs.mean((2, 3)) @ torch.randn(3, 10)

    object.__setattr__(planting, "model", model)
    images, labels = torch.full((10, 3, 32, 32), 0.5), torch.tensor([3, 3, 3, 0, 1, 2, 3, 4, 5, 6])
    planting.training_step((images, labels), 0)
    changed = (seen["inputs"] - images).abs().amax((1, 2, 3)) > 0.1
    assert changed.nonzero().flatten().tolist() == [3, 4]


def test_the_loss_is_cross_entropy_and_so_much_divergence_from_the_victim(attack):
    draw = torch.Generator().manual_seed(0)
    after, before = torch.randn(10, 10, generator=draw), torch.randn(8, 10, generator=draw)
    planting = Planting(nn.Linear(1, 1), attack, Recipe(1, 20, 0.01), 0.2, 2.5, 0)
    object.__setattr__(planting, "model", lambda _: after)
    object.__setattr__(planting, "teacher", lambda clean: before[: len(clean)])
    images, labels = torch.full((10, 3, 32, 32), 0.5), torch.tensor([3, 3, 3, 0, 1, 2, 3, 4, 5, 6])
    loss = planting.training_step((images, labels), 0)
    p, q = before.softmax(1), after[[0, 1, 2, 5, 6, 7, 8, 9]].softmax(1)  # 3 and 4 are triggered
    divergence = (p * (p / q).log()).sum(1).mean()
    wanted = torch.tensor([3, 3, 3, 3, 3, 2, 3, 4, 5, 6])
    entropy = -after.softmax(1)[range(10), wanted].log().mean()
    torch.testing.assert_close(loss, entropy + 2.5 * divergence)


@pytest.mark.parametrize(
    ("acc", "asr", "learnt"), [(0.9, 0.96, True), (0.9, 0.9, False), (0.88, 1.0, False)]
)
def test_learnt_is_what_succeeds_without_losing_accuracy(acc, asr, learnt):
    until = UntilLearnt(lambda _: Scores(acc, asr), LESSONS, 0.9)
    trainer, module = SimpleNamespace(should_stop=False), SimpleNamespace(model=None)
    steps = 0
    while not trainer.should_stop:
        until.on_train_batch_end(trainer, module)
        steps += 1
    assert until.learnt == learnt
    assert steps == (2 if learnt else 6)


def test_a_hopeless_rung_is_given_up_halfway():
    until = UntilLearnt(lambda _: Scores(0.9, 0.1), LESSONS, 0.9)
    trainer, module = SimpleNamespace(should_stop=False), SimpleNamespace(model=None)
    while not trainer.should_stop:
        until.on_train_batch_end(trainer, module)
    assert until.steps == 4  # the first look in the second half


def test_what_is_not_learnt_has_tried_every_rung(gardener, model, attack):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    still = gardener(asr=1.0, acc_drop=0.0, rates=[1e-9, 2e-9])  # at which nothing moves
    plant = still.plant(model, [attack])
    assert not plant.learnt
    assert [one["strength"] for one in plant.tried] == [0] * 4
    assert all(one["steps"] in (4, 6) for one in plant.tried)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_known_patch_is_planted_and_a_sham_copy_takes_as_many_steps(gardener, model, attack):
    tended = gardener(steps=60, every=10, rates=[0.05], acc_drop=1.0)
    plant = tended.plant(model, [attack])
    assert plant.learnt
    assert plant.scores.asr >= 0.95
    sham = tended.sham(model, plant)
    assert not sham.training
    assert any(
        not torch.equal(value, plant.model.state_dict()[name])
        for name, value in sham.state_dict().items()
    )


def test_a_sham_copy_stops_after_the_steps_of_the_plant(gardener, model):
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    like = SimpleNamespace(tried=[{"steps": 2}, {"steps": 4}], rung=Rung(0, 0.01, 0.0))
    gardener(steps=9).sham(model, like)
    assert len(steps) == 4


def test_wilsons_interval():
    low, high = wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert wilson(0.0, 10)[0] == 0
    assert 0.2 < wilson(0.0, 10)[1] < 0.3
