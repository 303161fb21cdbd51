"""Synthetic images, adversarial ones, and the tuning of BatchNorm between them."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses import Chain
from backdoor_lab.defenses._base import batch_norms
from backdoor_lab.defenses.aft import AFT
from backdoor_lab.defenses.aft.aft import adversarial, only
from backdoor_lab.defenses.aft.synthesis import mismatch, synthesise
from backdoor_lab.defenses.clp import CLP
from backdoor_lab.models import frozen_copy
from backdoor_lab.training import Engine, Recipe, Tuning
from tests.tiny import SPEC, drawn_tiny, tiny_aux

NOTHING = AuxiliarySet("none", None, False)
OPTIONS = {
    "images": 24, "synthesis_iterations": 3, "synthesis_lr": 0.1, "radius": 0.5,
    "attack_iterations": 4, "gamma": 1.0, "freeze_statistics": False, "keep_pruned": False,
    "epochs": 2, "lr": 3e-3, "batch_size": 8,
}  # fmt: skip


@pytest.fixture
def model():
    return drawn_tiny()


def aft(engine, victim, seed=3, **changes):
    made = AFT(**OPTIONS | changes)
    made.attach(engine, SPEC, seed)
    made.original = lambda: frozen_copy(victim)
    return made


def changed(before, after):
    state = after.state_dict()
    return {
        name for name, value in before.state_dict().items() if not torch.equal(value, state[name])
    }


def test_adversarial_images_lie_in_the_ball_and_raise_the_loss(model):
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 2
    found = adversarial(model, images, labels, 0.5, 10)
    assert (found - images).flatten(1).norm(dim=1).max() <= 0.5 + 1e-6
    assert (found - images).flatten(1).norm(dim=1).min() > 0.1
    assert found.min() >= 0
    assert found.max() <= 1
    before, after = (F.cross_entropy(model(x), labels, reduction="none") for x in (images, found))
    assert (after > before).all()
    assert torch.equal(adversarial(model, images, labels, 0.5, 0), images)
    assert all(weight.grad is None for weight in model.parameters())


def test_one_step_goes_along_the_gradient_of_each_image(model):
    model.double()
    images = torch.full((2, 3, 8, 8), 0.5, dtype=torch.float64) + 0.01 * torch.randn(2, 3, 8, 8)
    labels, slope = torch.tensor([0, 1]), torch.zeros(2, 192, dtype=torch.float64)

    def loss(place, change):
        moved = images.clone()
        moved[place].view(-1)[:] += change
        return F.cross_entropy(model(moved), labels, reduction="sum").item()

    for place in range(2):
        for pixel in range(192):  # finite differences
            unit = torch.zeros(192, dtype=torch.float64)
            unit[pixel] = 1e-5
            slope[place, pixel] = (loss(place, unit) - loss(place, -unit)) / 2e-5
    expected = 0.2 * slope / slope.norm(dim=1, keepdim=True)  # 2.5 radii, back into the ball
    found = adversarial(model, images, labels, 0.2, 1) - images
    torch.testing.assert_close(found.flatten(1), expected, atol=1e-6, rtol=1e-4)


def test_steps_of_an_attack_are_two_and_a_half_radii_long_together(model):
    images, seen = torch.full((4, 3, 8, 8), 0.5) + 0.01 * torch.randn(4, 3, 8, 8), []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    adversarial(model, images, torch.arange(4) % 2, 0.2, 10)
    assert len(seen) == 10
    assert torch.equal(seen[0], images)
    for before, after in pairwise(seen[:4]):  # in the ball as yet
        length = (after - before).flatten(1).norm(dim=1)
        torch.testing.assert_close(length, torch.full((4,), 0.05), rtol=1e-3, atol=0)


def test_mismatch_is_that_of_means_and_deviations(model):
    names = list(batch_norms(model))
    batch = {name: (torch.randn(8), torch.rand(8)) for name in names}
    stored = {name: (torch.randn(8), torch.rand(8)) for name in names}
    expected = 0.0
    for name in names:
        (mean, var), (mean2, var2) = ([x.numpy() for x in s[name]] for s in (batch, stored))
        expected += ((mean - mean2) ** 2).sum()
        expected += ((np.sqrt(var + 1e-3) - np.sqrt(var2 + 1e-3)) ** 2).sum()
    found = mismatch(batch, stored, dict.fromkeys(names, 1e-3))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert mismatch(stored, stored, dict.fromkeys(names, 1e-3)) == 0


def test_synthesis_comes_closer_to_statistics_and_labels(model):
    with torch.no_grad():  # statistics that some images do have
        model.train()
        for _ in range(60):
            model(torch.rand(64, 3, 8, 8) * 0.3 + 0.2)
        model.eval()
    before = deepcopy(model.state_dict())
    labels, noise = torch.arange(16) % 2, torch.randn(16, 3, 8, 8)
    scale = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.5)
    _, start = synthesise(model, labels, noise, scale, 1, 0.1)
    images, end = synthesise(model, labels, noise, scale, 100, 0.1)
    assert (end < torch.tensor([0.05, 0.5]) * start).all()
    assert images.min() >= 0
    assert images.max() <= 1
    with torch.no_grad():
        entered = model.body[0](images)
        wanted = model.body[1]
        mean = (entered.mean((0, 2, 3)) - wanted.running_mean).norm()
        far = (model.body[0](0.5 + 0.5 * noise).mean((0, 2, 3)) - wanted.running_mean).norm()
    assert mean < 0.5 * far
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_synthesis_keeps_to_images_at_each_step(model):
    seen = []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    scale = torch.full((1, 3, 1, 1), 0.4), torch.full((1, 3, 1, 1), 0.2)
    noise = 9 * torch.randn(4, 3, 8, 8)
    images, _ = synthesise(model, torch.arange(4) % 2, noise, scale, 5, 1.0)
    assert len(seen) == 5
    for one in (*seen, images):
        assert one.min().item() == pytest.approx(0, abs=1e-6)
        assert one.max().item() == pytest.approx(1, abs=1e-6)


def test_images_are_balanced_seeded_and_come_from_the_model_that_is_tuned(engine, model):
    first, second, other = (aft(engine, model, seed).synthesised(model) for seed in (1, 1, 2))
    assert first.labels.tolist() == [0, 1] * 12
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)
    with torch.no_grad():
        model.body[1].running_mean += 3
    assert not torch.equal(aft(engine, model, 1).synthesised(model).images, first.images)


def test_a_purification_looks_at_the_images_of_what_it_is_given(engine, model, monkeypatch):
    student = deepcopy(model)
    with torch.no_grad():
        student.body[1].running_mean += 3
    seen, original = [], AFT.synthesised

    def looked(self, source):
        seen.append(source.body[1].running_mean.clone())
        return original(self, source)

    monkeypatch.setattr(AFT, "synthesised", looked)
    given = student.body[1].running_mean.clone()
    aft(engine, model, 1).purify(student, AuxiliarySet("none", None, False))
    assert torch.equal(seen[0], given)


def test_the_loss_is_the_distance_here_less_the_distance_there(engine, model):
    victim, student = deepcopy(model), deepcopy(model)
    with torch.no_grad():
        student.body[1].weight *= 0.5
        student.body[4].bias += 0.3
    step = aft(engine, victim, gamma=0.7)
    step.model, step.teacher = student, frozen_copy(victim)
    step.answers = torch.zeros(2)
    only(student, batch_norms(student), freeze_statistics=False)
    step.train()
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 2
    hard = adversarial(deepcopy(student).eval(), images, labels, 0.5, 4)

    def by_hand(x):
        a, b, head = student.body, student.body[4], student.head
        x = F.batch_norm(a[0](x), None, None, a[1].weight, a[1].bias, True)
        x = F.batch_norm(a[3](x.relu()), None, None, b.weight, b.bias, True)
        return head(x.relu().mean((2, 3)))

    expected = (victim(images) - by_hand(images)).square().sum() / 8
    expected = expected - 0.7 * (victim(hard) - by_hand(hard)).square().sum() / 8
    mean = student.body[0](images).mean((0, 2, 3))
    running = 0.9 * student.body[1].running_mean + 0.1 * mean
    loss = step.training_step((images, labels), 0)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(student.body[1].running_mean, running)  # of the clean images alone


def test_batch_norms_alone_change(engine, model):
    before = deepcopy(model)
    step = aft(engine, model)
    purified = step.purify(model, NOTHING)
    norms = {
        f"body.{place}.{part}"
        for place in (1, 4)
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert changed(before, purified) == norms
    assert purified is model
    assert not hasattr(step, "teacher")
    assert set(step.details["synthesis"]) == {"mismatch", "cross_entropy"}


def test_the_victim_s_answers_to_adversarial_images_are_told_by_class(engine, model):
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 5.0]))
    step = aft(engine, model)
    step.purify(model, NOTHING)
    assert step.details["adversarial_answers"] == [0.0, 1.0]


def test_under_the_victim_s_own_statistics_nothing_moves(engine, model):
    before = deepcopy(model)
    assert not changed(before, aft(engine, model, freeze_statistics=True).purify(model, NOTHING))
    student = deepcopy(model)
    with torch.no_grad():
        student.body[1].weight *= 0.5
    after = aft(engine, model, freeze_statistics=True).purify(deepcopy(student), NOTHING)
    assert changed(student, after) == {f"body.{n}.{p}" for n in (1, 4) for p in ("weight", "bias")}


@pytest.mark.parametrize("keep", [True, False])
def test_pruned_entries_stay_where_asked(engine, model, keep):
    victim = deepcopy(model)
    with torch.no_grad():
        model.body[1].weight[2] = 0
        model.body[1].bias[2] = 0.5  # as anp leaves it
    after = aft(engine, victim, keep_pruned=keep).purify(model, NOTHING)
    assert (after.body[1].weight[2] == 0) == keep
    assert after.body[1].bias[2] != 0.5


def test_without_gamma_the_student_becomes_the_teacher(engine, model):
    student = deepcopy(model)
    with torch.no_grad():
        student.body[4].weight *= 0.5
    images = torch.rand(32, 3, 8, 8)
    far = (model(images) - student(images)).square().sum().item()
    options = {"gamma": 0.0, "freeze_statistics": True, "epochs": 15, "lr": 0.02}
    after = aft(engine, model, **options).purify(deepcopy(student), NOTHING)
    assert (model(images) - after(images)).square().sum().item() < 0.3 * far


def test_behind_another_defense_the_teacher_is_the_victim(engine, model, monkeypatch):
    seen = []
    distil = AFT.training_step

    def watched(self, batch, batch_idx):
        seen.append((deepcopy(self.teacher), deepcopy(self.model)))
        return distil(self, batch, batch_idx)

    monkeypatch.setattr(AFT, "training_step", watched)
    chain = Chain((CLP(1.0, "reference", True), AFT(**OPTIONS)))
    chain.attach(engine, SPEC, 0)
    assert (chain.needs_images, chain.needs_labels, chain.needs_batch_norm) == (False, False, True)
    chain.check(has_images=False, labelled=False)
    purified = chain.purify(model, NOTHING)
    teacher, student = seen[0]
    assert not changed(model, teacher)
    assert not teacher.training
    assert (student.body[1].weight == 0).any()
    assert all(weight.requires_grad for weight in purified.parameters())
    assert not any(hasattr(module, "frozen") for module in purified.modules())
    assert len(seen) == 6


def test_the_auxiliary_set_is_not_read(engine, model):
    first, second = (
        aft(engine, model).purify(deepcopy(model), aux) for aux in (NOTHING, tiny_aux(6))
    )
    assert not changed(first, second)


def test_dropout_and_frozen_parts_stay_out_of_the_training(model):
    net = nn.Sequential(model.body, nn.Dropout(0.5))
    only(net, batch_norms(net), freeze_statistics=False)
    trained = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert trained == {f"0.{place}.{part}" for place in (1, 4) for part in ("weight", "bias")}
    Tuning(net, Recipe(1, 8, 0.1), None, 0).train()
    active = {name for name, module in net.named_modules() if module.training}
    assert active == {"0.1", "0.4"}  # no dropout, also none between layers


def test_a_dry_run_synthesises_in_one_step(model, monkeypatch):
    steps = []
    monkeypatch.setattr(
        "backdoor_lab.defenses.aft.aft.synthesise",
        lambda *given: steps.append(given[4]) or synthesise(*given),
    )
    dry = Engine(accelerator="cpu", precision="32-true", progress=False, fast_dev_run=True)
    assert isinstance(aft(dry, model).synthesised(model), ImageSet)
    assert steps == [1, 1, 1]


@pytest.mark.parametrize("wrong", [{"images": 0}, {"radius": 0.0}, {"gamma": -1.0}, {"lr": 0.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        AFT(**OPTIONS | wrong)
