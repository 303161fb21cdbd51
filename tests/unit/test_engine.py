"""How modules are trained and models are run."""

import signal
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from lightning import Callback
from torch import nn
from torch.nn.utils import get_total_norm

from backdoor_lab.datasets import ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import freeze
from backdoor_lab.training import Engine, Manual, Recipe, Tuning, constant, sgd
from tests.tiny import drawn_tiny, tiny_aux


@pytest.fixture(scope="module")
def data():
    return tiny_aux(32).data


def made(**options):
    return Engine(accelerator="cpu", progress=False, **{"precision": "32-true", **options})


def plain(lr=1.0, epochs=1, batch_size=8):
    return Recipe(epochs, batch_size, lr, sgd(0.0, weight_decay=0.0), constant)


class Counted(Tuning):
    """Notes at each step which epoch it is and whether autocast is on."""

    def on_fit_start(self):
        self.steps, self.cast = [], set()

    def training_step(self, batch, batch_idx):
        self.steps.append(self.current_epoch)
        self.cast.add(torch.is_autocast_enabled("cpu"))
        return super().training_step(batch, batch_idx)


class Exact(Counted):
    """Wants full precision."""

    precision = "32-true"


class ByHand(Manual):
    """The plain step, descended by itself."""

    def __init__(self, model, recipe):
        super().__init__()
        self.model, self.recipe = model, recipe

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.descend(loss, self.optimizers())
        return loss


def test_evaluating_restores_the_modes_that_it_found(engine, tiny):
    tiny.train()
    tiny.body[1].eval()
    before = {name: module.training for name, module in tiny.named_modules()}
    with engine.evaluating(tiny) as model:
        assert not any(module.training for module in model.modules())
    assert {name: module.training for name, module in tiny.named_modules()} == before


def test_a_frozen_part_stays_as_it_is_in_a_training(engine, tiny, data):
    freeze(tiny.body)
    before = deepcopy(tiny.state_dict())
    engine.fit(Tuning(tiny, plain(0.1), None, 0), data, "fit")
    changed = {n for n, t in tiny.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"head.weight", "head.bias"}
    assert not tiny.training


@pytest.mark.parametrize(("kind", "cast"), [(Counted, True), (Exact, False)])
def test_a_module_may_want_another_precision_than_the_engine(tiny, data, kind, cast):
    module = kind(tiny, plain(0.1), None, 0)
    made(precision="bf16-mixed", fast_dev_run=True).fit(module, data, "fit")
    assert module.cast == {cast}


def test_refreshed_statistics_are_plain_means_over_batches(engine, tiny, data):
    weights = deepcopy(dict(tiny.named_parameters()))
    engine.refresh_statistics(tiny.eval(), data, batch_size=8)
    with torch.no_grad():
        maps = [tiny.body[0](part) for part, _ in engine.batches(data, 8, seed=0)]
    mean = torch.stack([part.mean((0, 2, 3)) for part in maps]).mean(0)
    var = torch.stack([part.var((0, 2, 3)) for part in maps]).mean(0)
    norm = tiny.body[1]
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert norm.momentum == 0.1
    assert not tiny.training
    assert all(torch.equal(weight, weights[name]) for name, weight in tiny.named_parameters())


def test_refreshed_statistics_are_of_mixed_batches_of_one_size(engine, tiny, monkeypatch):
    images = torch.zeros(66, 3, 8, 8, dtype=torch.uint8)
    images[33:] = 200  # sorted, as in folders: each half is one class
    data = ImageSet.of(images, torch.arange(66) // 33)
    sizes, cut = [], ImageSet.cut
    monkeypatch.setattr(
        ImageSet, "cut", lambda self, where: sizes.append(len(where)) or cut(self, where)
    )
    engine.refresh_statistics(tiny.eval(), data, batch_size=16)
    assert sizes == [14, 14, 14, 14, 10]
    with torch.no_grad():
        whole = tiny.body[0](images.float() / 255).var((0, 2, 3))
    torch.testing.assert_close(tiny.body[1].running_var, whole, rtol=0.1, atol=0)


class Dropping(nn.Module):
    """A model whose layers draw."""

    def __init__(self):
        super().__init__()
        self.net = drawn_tiny()

    def forward(self, images):
        return F.dropout(self.net(images), 0.5, self.training)


def test_what_layers_draw_follows_from_the_seed_and_the_epoch(engine, data):
    seeds = []

    class Told(Tuning):
        def on_train_batch_start(self, batch, batch_idx):
            seeds.append(torch.initial_seed())

    def trained(seed, before):
        model = Dropping()
        with torch.random.fork_rng():
            torch.manual_seed(before)
            state = torch.get_rng_state()
            engine.fit(Told(model, plain(0.1, epochs=2), None, seed), data, "fit")
            assert torch.equal(torch.get_rng_state(), state)
        return model.net.head.weight.detach()

    assert torch.equal(trained(3, before=1), trained(3, before=2))
    first, second = seeds[0], seeds[4]  # of four batches each, as a resumed training has them
    assert seeds == [*[first] * 4, *[second] * 4] * 2
    assert first != second


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [0, 0, 0, 0, 1, 1, 1, 1]),
        ({"limit_train_batches": 3}, [0, 0, 0, 1, 1, 1]),
        ({"limit_train_batches": 0.5}, [0, 0, 1, 1]),
        ({"limit_train_batches": 99}, [0, 0, 0, 0, 1, 1, 1, 1]),
        ({"fast_dev_run": True}, [0]),
    ],
    ids=str,
)
def test_batches_can_be_limited(tiny, data, options, steps):
    module = Counted(tiny, plain(0.1, epochs=2), None, 0)
    made(**options).fit(module, data, "fit")
    assert module.steps == steps
    assert module.steps_per_epoch == steps.count(0)


@pytest.mark.parametrize("kind", ["automatic", "manual"])
def test_gradients_are_clipped_where_that_is_asked_for(tiny, data, kind):
    before = deepcopy(list(tiny.parameters()))
    module = ByHand(tiny, plain()) if kind == "manual" else Tuning(tiny, plain(), None, 0)
    made(fast_dev_run=True, gradient_clip_val=1e-3).fit(module, data, "fit")
    moved = [weight - old for weight, old in zip(tiny.parameters(), before, strict=True)]
    assert get_total_norm(moved).item() == pytest.approx(1e-3, rel=1e-2)


class Noted(Callback):
    """Notes its trainings, its own and those of all copies."""

    everywhere: list = []  # noqa: RUF012

    def __init__(self):
        self.mine = 0

    def on_train_start(self, trainer, pl_module):
        self.mine += 1
        self.everywhere.append(self.mine)


def test_a_callback_acts_in_each_training_as_a_copy_of_its_own(tiny, data):
    original = Noted()
    engine = made(callbacks={"noted": original}, fast_dev_run=True)
    for _ in range(2):
        engine.fit(Tuning(tiny, plain(0.1), None, 0), data, "fit")
    assert Noted.everywhere == [1, 1]
    assert original.mine == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"devices": [0, 1]}, r"trainer\.devices=\[0, 1\]"),
        ({"devices": []}, r"trainer\.devices=\[\]"),
        ({"callbacks": {"x": 1}}, r"trainer\.callbacks holds a int"),
    ],
)
def test_refusals(options, told):
    with pytest.raises(ConfigError, match=told):
        made(**options)


def test_too_few_images_are_refused(engine, tiny, data):
    module = Tuning(tiny, plain(), None, 0)
    with pytest.raises(ConfigError, match=r"1 image\(s\) make no batch"):
        engine.fit(module, data.take(torch.tensor([0])), "fit")


class Listening(Callback):
    """Notes who listens to SLURM's warning during a training."""

    def on_train_batch_end(self, trainer, *_):
        self.handler = signal.getsignal(signal.SIGUSR1)


def test_slurms_signals_are_left_alone(monkeypatch, tiny, data):
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "run", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    listening = Listening()
    made().fit(Tuning(tiny, plain(), None, 0), data, "t", [listening])
    assert listening.handler == signal.SIG_DFL
