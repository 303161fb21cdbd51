"""Recipes and schedules: what the learning rate is after so many epochs."""

from functools import partial

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.optim import SGD

from backdoor_lab.training import (
    Manual,
    Recipe,
    Supervised,
    backdoorbench,
    constant,
    cosine,
    multi_step,
    one_cycle,
)


def rates(schedule, epochs, steps=1, lr=0.01, after=None):
    """The rate before each step of the schedule, and the one after the last."""
    recipe = Recipe(epochs=epochs, batch_size=2, lr=lr, schedule=schedule)
    made = recipe.optimizers([nn.Parameter(torch.zeros(1))], steps)
    sgd, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    by_step = made["lr_scheduler"]["interval"] == "step"
    found = []
    for _ in range(epochs * steps if by_step else after or epochs):
        found.append(sgd.param_groups[0]["lr"])
        sgd.step()
        if len(found) < epochs * steps or not by_step:
            scheduler.step()
    return [*found, sgd.param_groups[0]["lr"]]


def test_half_a_cosine_ends_at_nothing_after_its_epochs():
    found = rates(partial(backdoorbench, t_max=100), 100)
    assert found[0] == 0.01
    assert found[50] == pytest.approx(0.005)
    assert found[100] == pytest.approx(0, abs=1e-12)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(("epochs", "last"), [(50, 0.005), (150, 0.005), (200, 0.01)])
def test_a_hundred_epochs_of_cosine_stay_a_hundred_whatever_the_training(epochs, last):
    assert rates(partial(backdoorbench, t_max=100), epochs)[-1] == pytest.approx(last, abs=1e-12)


@pytest.mark.parametrize("schedule", [cosine, backdoorbench])
def test_a_cosine_without_t_max_takes_all_epochs(schedule):
    found = rates(schedule, 50)
    assert found[25] == pytest.approx(0.005)
    assert found[-1] == pytest.approx(0, abs=1e-12)


def test_a_floor_is_where_the_cosine_ends():
    assert rates(partial(cosine, floor=0.002), 10)[-1] == pytest.approx(0.002)


@pytest.mark.parametrize("schedule", [multi_step, backdoorbench])
def test_each_milestone_takes_a_tenth(schedule):
    found = rates(partial(schedule, milestones=[2, 4]), 5)
    assert found == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_milestones_that_are_never_reached_leave_the_rate():
    found = rates(partial(backdoorbench, milestones=[100, 200], t_max=100, patience=10), 50)
    assert set(found) == {0.01}


def test_constant_is_constant():
    assert set(rates(constant, 9)) == {0.01}


def test_one_cycle_climbs_to_the_rate_and_falls_to_nothing_in_steps():
    found = rates(one_cycle, 10, steps=10, lr=0.1)
    assert max(found) == pytest.approx(0.1)
    assert found.index(max(found)) == pytest.approx(30, abs=1)
    assert found[0] < 0.01
    assert found[-1] < 1e-5


def test_frozen_parameters_are_not_trained():
    trained, frozen = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1), requires_grad=False)
    made = Recipe(epochs=1, batch_size=2, lr=0.1).optimizers([trained, frozen], 1)
    assert made["optimizer"].param_groups[0]["params"] == [trained]


class Levels(Supervised):
    """Whatever the model says, the loss of an epoch is the one given for it."""

    def __init__(self, schedule, levels):
        super().__init__()
        self.levels = levels
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        sgd = partial(SGD, momentum=0.9)
        options = {"batch_size": 3, "lr": 0.1, "optimizer": sgd, "schedule": schedule}
        self.recipe = Recipe(epochs=len(levels), **options)
        self.seen = []

    def loss(self, images):
        return self.model(images).sum() * 0 + self.levels[self.current_epoch]

    def training_step(self, batch, batch_idx):
        return self.loss(batch[0])

    def configure_optimizers(self):
        made = super().configure_optimizers()
        self.sgd = made["optimizer"]
        return made

    def on_train_epoch_start(self):
        self.seen.append(self.sgd.param_groups[0]["lr"])


class ManualLevels(Levels, Manual):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch[0])
        self.descend(loss, self.optimizers())
        return loss.detach()


@pytest.fixture(params=[Levels, ManualLevels])
def learnt(request, engine, images):
    """The rate of every epoch, and the one after the last, of a training of two steps an epoch."""

    def learn(schedule, levels):
        module = request.param(schedule, levels)
        engine.fit(module, images.take(torch.arange(6)), "levels")
        return [*module.seen, module.sgd.param_groups[0]["lr"]]

    return learn


PATIENT = partial(backdoorbench, patience=1, t_max=100)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([1, 1, 1, 1, 1, 1], [0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ([3, 4, 2, 4, 1, 4], [0.1] * 7),
        ([3, 2, 3, 4, 1, 1], [0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]),
    ],
)
def test_a_plateau_of_the_training_loss_takes_a_tenth(learnt, levels, expected):
    assert learnt(PATIENT, levels) == pytest.approx(expected)


def test_milestones_count_epochs_not_steps(learnt):
    found = learnt(partial(backdoorbench, milestones=[2]), [1, 1, 1])
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01])


GOOD = {"epochs": 1, "batch_size": 2, "lr": 0.1}
BAD = [
    {"momentun": 0.9},
    {"nesterov": True},
    {"epochs": 0},
    {"epochs": 1.5},
    {"batch_size": 0},
    {"lr": 0},
    {"lr": "fast"},
    {"optimizer": "SGD"},
    {"drop_last": "perhaps"},
    {"schedule": None},
]


def test_a_recipe_refuses_what_it_does_not_understand():
    assert Recipe(**GOOD)
    for wrong in BAD:
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Recipe(**GOOD | wrong)


def test_unknown_keys_of_a_recipe_or_its_schedule_are_refused(config):
    for key in ("momentun", "schedule.t_maks"):
        with pytest.raises(Exception, match=key.split(".")[-1]):
            config(f"recipe.{key}=1", "dataset=cifar10")
