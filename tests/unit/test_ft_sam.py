"""FT-SAM: one step against its formula, what each option does, what is refused."""

from copy import deepcopy
from math import cos, pi

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from backdoor_lab.defenses.ft import FT
from backdoor_lab.defenses.ft_sam import FTSAM, smoothed
from backdoor_lab.training import cosine, waves
from tests.tiny import SPEC, Tiny, tiny_aux

OPTIONS = {
    "epochs": 1, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.05, "batch_size": 16, "rho": 2.0,
    "adaptive": True, "label_smoothing": 0.1, "schedule": "cosine",
}  # fmt: skip


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(16)


@pytest.fixture
def tuned(engine, aux):
    """The state of Tiny after FT-SAM with `changes`, its images as they are."""

    def tune(kind=FTSAM, options=OPTIONS, **changes):
        torch.manual_seed(0)
        model = Tiny()
        defense = kind(**options | changes)
        defense.attach(engine, SPEC, seed=0)
        defense.crop_flip = None
        purified = defense.purify(model, aux)
        assert purified is model
        assert not model.training
        return {name: value.contiguous() for name, value in model.state_dict().items()}

    return tune


def by_hand(aux, rho, adaptive):
    """Weights after one step, and running statistics after one pass in train mode."""
    torch.manual_seed(0)
    model = Tiny().train()
    images, labels = aux.data.images.float() / 255, aux.data.labels
    wanted = torch.where(F.one_hot(labels, 2).bool(), 0.9, 0.1)

    def gradients(at):
        loss = F.kl_div(at(images).log_softmax(1), wanted, reduction="batchmean")
        return torch.autograd.grad(loss, list(at.parameters()))

    first = gradients(model)
    statistics = {name: t.clone() for name, t in model.named_buffers() if "running" in name}
    above = deepcopy(model)
    stretch = [w.detach().abs() if adaptive else torch.ones_like(w) for w in model.parameters()]
    joint = sum((t * g).square().sum() for t, g in zip(stretch, first, strict=True)).sqrt()
    with torch.no_grad():
        for weight, t, gradient in zip(above.parameters(), stretch, first, strict=True):
            weight += rho * t**2 * gradient / joint
    weights = {}
    for (name, weight), gradient in zip(model.named_parameters(), gradients(above), strict=True):
        weights[name] = weight.detach() - 0.1 * (gradient + 0.05 * weight.detach())
    return weights | statistics


@pytest.mark.parametrize(("adaptive", "rho"), [(True, 2.0), (True, 0.5), (False, 0.5)])
def test_one_step_is_the_formula_and_statistics_move_once(tuned, aux, adaptive, rho):
    expected = by_hand(aux, rho, adaptive)
    found = tuned(rho=rho, adaptive=adaptive)
    torch.testing.assert_close({n: found[n] for n in expected}, expected, rtol=1e-4, atol=1e-6)


def test_without_a_radius_it_is_fine_tuning(tuned):
    shared = {k: OPTIONS[k] for k in ("lr", "momentum", "weight_decay")}
    plain = tuned(FT, shared | {"epochs": 3, "batch_size": 8, "t_max": None})
    found = tuned(epochs=3, batch_size=8, rho=0, label_smoothing=0)
    for name, value in plain.items():
        if "tracked" not in name:  # counts passes, and nothing reads it
            torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("smoothing", [0, 0.1, 0.5])
def test_targets_leave_the_smoothed_share_to_the_other_labels(smoothing):
    labels, logits = torch.tensor([0, 3, 1]), torch.randn(3, 5)
    targets = smoothed(labels, 5, smoothing)
    assert targets[1].tolist() == pytest.approx(
        [smoothing / 4] * 3 + [1 - smoothing, smoothing / 4]
    )
    torch.testing.assert_close(  # torch's own share goes to all labels, the right one as well
        F.cross_entropy(logits, targets),
        F.cross_entropy(logits, labels, label_smoothing=smoothing * 5 / 4),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"rho": 8.0}, {"adaptive": False}, {"label_smoothing": 0.0}, {"lr": 0.01},
        {"weight_decay": 0.0}, {"batch_size": 8}, {"epochs": 2},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_every_option_changes_the_result(tuned, change):
    assert not torch.equal(tuned()["head.weight"], tuned(**change)["head.weight"])


def rates(schedule, epochs, steps):
    """The learning rate of each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    made = schedule(optimizer, epochs, steps)
    found = []
    for step in range(epochs * steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if made["interval"] == "step" or (step + 1) % steps == 0:
            made["scheduler"].step()
    return found, optimizer.param_groups[0]["lr"]


def test_waves_go_down_and_up_again():
    """As BackdoorBench runs on CIFAR-10: five periods, which end at the highest rate."""
    found, last = rates(waves, epochs=100, steps=10)
    assert found[100] == pytest.approx(0, abs=1e-9)
    assert found[::200] == pytest.approx([0.01] * 5)
    assert last == pytest.approx(0.01)
    assert sum(found) / 1000 == pytest.approx(0.005)
    found, last = rates(cosine, epochs=100, steps=10)
    assert found == sorted(found, reverse=True)
    assert last == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("waves", [cos(pi * step / 200) ** 2 / 10 for step in range(6)]),
        ("constant", [0.1] * 6),
        ("cosine", [0.1, 0.1, 0.075, 0.075, 0.025, 0.025]),
    ],
)
def test_the_rate_follows_the_schedule(tuned, monkeypatch, schedule, expected):
    seen = []

    def note(self, batch, batch_idx):
        seen.append(self.optimizers().optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(FTSAM, "on_train_batch_start", note)
    tuned(epochs=3, batch_size=8, schedule=schedule)
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize(
    "change",
    [{"rho": -1}, {"label_smoothing": 1.5}, {"schedule": "step"}, {"epochs": 0}, {"lr": 0}],
    ids=lambda change: next(iter(change)),
)
def test_bad_values_are_refused(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        FTSAM(**OPTIONS | change)
