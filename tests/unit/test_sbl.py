"""SBL: its split, sprinkled batches, two stages, and what it may wrap."""

import math

import pytest
import torch
from torch import nn

from backdoor_lab.attacks._continual import climbed
from backdoor_lab.attacks.adaptive import Adaptive
from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.attacks.blended import Blended
from backdoor_lab.attacks.input_aware import InputAware
from backdoor_lab.attacks.sbl import SBL, FirstStage, unchanged
from backdoor_lab.attacks.sig import SIG
from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe
from tests.tiny import Tiny

SPEC = DataSpec("x", ("a", "b"), (3, 8, 8), (0.0,) * 3, (1.0,) * 3, 2, False)


def attached(inner=None, seed=0, **options):
    attack = SBL(inner or BadNets(0.1, 0, pattern="random"), **options)
    attack.attach(SPEC, Recipe(epochs=1, batch_size=2, lr=0.1), seed)
    return attack


def some_images(count=60):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (count, 3, 8, 8), generator=draw, dtype=torch.uint8)
    return ImageSet.of(pixels, torch.arange(count) % 2)


@pytest.fixture
def small_shop(shop, monkeypatch):
    """The shared workshop with a model whose config is not that of others."""
    monkeypatch.setitem(shop.identity, "model", "tiny sbl")
    return shop


def test_split_is_stratified_disjoint_and_the_same_for_all_seeds():
    labels = some_images(200).labels
    mixed, clean = attached(seed=0).stages(labels)
    again, _ = attached(seed=7).stages(labels)
    assert (len(mixed), len(clean)) == (180, 20)
    assert labels[clean].bincount().tolist() == [10, 10]
    assert torch.equal(mixed, again)
    assert set(mixed.tolist()) | set(clean.tolist()) == set(range(200))


def test_a_share_that_means_no_image_is_refused():
    with pytest.raises(ConfigError, match="attack.clean_share=0.001 means 0 of 60"):
        attached(clean_share=0.001).stages(some_images().labels)
    with pytest.raises(ConfigError, match="attack.clean_share=1"):
        attached(clean_share=1).stages(some_images().labels)


def test_default_share_gives_the_papers_numbers():
    mixed, clean = attached().stages(torch.arange(47500) % 10)
    assert (len(mixed), len(clean)) == (pytest.approx(42500, abs=20), pytest.approx(5000, abs=20))


def test_sprinkled_batches_bear_the_patch_bit_for_bit():
    attack = attached()
    images = torch.rand(4000, 3, 8, 8) * 0.5
    labels = torch.ones(4000, dtype=torch.int64)
    after, wanted = attack.sprinkled(images, labels, torch.Generator().manual_seed(0))
    hit = wanted == 0
    assert abs(hit.sum() - 400) < 4 * math.sqrt(4000 * 0.1 * 0.9)
    patch = attack.inner.levels[:, -3:, -3:]
    assert (after[hit][..., -3:, -3:] == patch).all()
    assert torch.equal(after[~hit], images[~hit])
    assert torch.equal(after[..., :5, :5], images[..., :5, :5])


def test_static_poisoning_counts_the_whole_split_and_relabels_clean_label_attacks():
    attack = attached(SIG(0.1, 0), dat=False)
    train = some_images(200)
    poisoned, chosen = attack.poison(train)
    changed = (poisoned.images != train.images).flatten(1).any(1)
    assert torch.equal(changed.nonzero().flatten(), chosen)
    assert len(chosen) == 20
    assert not set(chosen.tolist()) & set(attack.stages(train.labels)[1].tolist())
    assert (poisoned.labels[chosen] == 0).all()
    assert (train.labels[chosen] == 1).any()
    assert not attack.clean_label


def test_training_share_of_a_blended_picture_is_the_inner_attacks():
    attack = attached(Blended(0.1, 0, alpha=0.1, test_alpha=0.9))
    images = torch.zeros(1, 3, 8, 8)
    key = attack.inner.key
    assert torch.allclose(attack.train_trigger(images)[0], 0.1 * key)
    assert torch.allclose(attack.trigger(images)[0], 0.9 * key)


def test_nothing_is_poisoned_beforehand():
    attack, train = attached(), some_images()
    poisoned, chosen = attack.poison(train)
    assert torch.equal(poisoned.images, train.images)
    assert len(chosen) == 0


def test_second_recipe_is_the_victims():
    attack = attached(second_epochs=7)
    assert (attack.recipe.epochs, attack.recipe.batch_size, attack.recipe.lr) == (7, 256, 0.001)
    assert (attack.first.weight_decay, attack.recipe.weight_decay) == (0, 5e-4)


def learn(shop, model, **options):
    options = {"clean_share": 0.4, "first_epochs": 1, "second_epochs": 1} | options
    attack = SBL(BadNets(0.5, 0, pattern="random"), **options)
    attack.attach(shop.data.spec, shop.recipe, 0)
    attack.train_victim(model, shop)
    return attack


def test_second_stage_sees_no_trigger_and_starts_from_the_first(small_shop, model, monkeypatch):
    seen = []
    plain = SBL.training_step

    def watched(self, batch, number):
        seen.append((batch[0].clone(), batch[1]))
        loss = plain(self, batch, number)
        assert self.penalty(batch[0], self.model(batch[0])) == 0  # the first step is yet to come
        return loss

    monkeypatch.setattr(SBL, "training_step", watched)
    attack = learn(small_shop, model, second_batch_size=64)
    assert len(seen) == 1
    images, labels = seen[0]
    patch = attack.inner.levels[:, -3:, -3:]
    assert not (images[..., -3:, -3:] == patch).flatten(1).all(1).any()
    assert labels.bincount().tolist() == [2] * 10
    assert {"first_stage_accuracy", "first_stage_asr"} <= attack.details.keys()


def running(model):
    return [value.clone() for name, value in model.state_dict().items() if "running" in name]


@pytest.mark.parametrize(("kind", "same"), [("frozen", True), ("update", False)])
def test_running_statistics_of_the_second_stage(small_shop, model, monkeypatch, kind, same):
    before = []
    first = SBL.learn_first

    def watched(self, victim, *rest):
        first(self, victim, *rest)
        before.extend(running(victim))

    monkeypatch.setattr(SBL, "learn_first", watched)
    learn(small_shop, model, second_bn=kind, penalty="naive")
    pairs = list(zip(before, running(model), strict=True))
    assert all(torch.equal(one, two) for one, two in pairs) == same


@pytest.mark.parametrize("options", [
    {"dat": False}, {"dat": False, "fisher_data": "mixed"}, {"fisher_data": "mixed"},
    {"penalty": "anchoring"}, {"step_scheduler": True},
])  # fmt: skip
def test_options_train(small_shop, model, options):
    learn(small_shop, model, **options)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_sharpness_aware_step_descends_from_home(engine, tiny):
    """One step of plain SGD would take the gradient at w; this takes that at w + epsilon."""
    attack = attached(first_epochs=1, first_lr=0.1, first_batch_size=60)
    attack.augment = None
    data = some_images()
    images, labels = data.images.float() / 255, data.labels
    weights = [p.detach().clone() for p in tiny.parameters()]
    statistics = Tiny()
    statistics.load_state_dict(tiny.state_dict())
    statistics.train()(images)  # one pass moves the running statistics, the second does not

    loss = nn.functional.cross_entropy(tiny.train()(images), labels)
    loss.backward()
    with climbed(tiny.parameters(), attack.radius):
        tiny.zero_grad()
        nn.functional.cross_entropy(tiny(images), labels).backward()
    want = [w - 0.1 * p.grad for w, p in zip(weights, tiny.parameters(), strict=True)]

    torch.manual_seed(0)
    trained = Tiny()
    engine.fit(FirstStage(attack, trained, unchanged), data, "test")
    for one, two in zip(trained.parameters(), want, strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    assert torch.allclose(trained.body[1].running_mean, statistics.body[1].running_mean, atol=1e-6)


def learnt():
    return InputAware(0.1, 0, count_mask_epochs=False)


@pytest.mark.parametrize(
    ("attack", "refusal"),
    [
        (SBL(learnt()), "^attack.inner=input_aware"),
        (SBL(Adaptive(learnt())), "^attack.inner=adaptive"),
        (SBL(Adaptive(BadNets(0.1, 0))), "^attack.inner=adaptive"),
        (SBL(SBL(BadNets(0.1, 0))), "^attack.inner=sbl"),
        (Adaptive(SBL(learnt())), "^attack.inner.inner=input_aware"),
        (Adaptive(SBL(Adaptive(BadNets(0.1, 0)))), "^attack.inner.inner=adaptive"),
    ],
)
def test_what_is_more_than_a_ready_trigger_is_refused(attack, refusal):
    with pytest.raises(ConfigError, match=refusal):
        attack.check((3, 32, 32), 10)


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({"penalty": "naive"}, True),
        ({"penalty": "naive", "second_bn": "update"}, False),
        ({"penalty": "ewc"}, False),
        ({"penalty": "anchoring"}, False),
        ({"penalty": "ewc", "second_bn": "frozen"}, True),
    ],
)
def test_statistics_are_frozen_where_nothing_else_holds_them(tiny, options, frozen):
    with attached(**options).statistics(tiny):
        assert tiny.body[1].momentum == (0 if frozen else 0.1)
    assert tiny.body[1].momentum == 0.1


@pytest.mark.parametrize("dat", [True, False])
def test_positions_are_those_of_what_is_poisoned_once(small_shop, model, dat):
    attack = SBL(BadNets(0.5, 0), clean_share=0.4, first_epochs=1, second_epochs=1, dat=dat)
    attack.attach(small_shop.data.spec, small_shop.recipe, 0)
    chosen = attack.train_victim(model, small_shop)
    assert torch.equal(chosen, attack.choose(small_shop.train.labels))
    assert len(chosen) == (0 if dat else 30)
    assert attack.details.get("poisoned") == (None if dat else 30)


def test_adaptive_around_it_returns_the_positions_too(small_shop, model):
    inner = SBL(BadNets(0.5, 0), clean_share=0.4, first_epochs=1, second_epochs=1, dat=False)
    attack = Adaptive(inner)
    attack.attach(small_shop.data.spec, small_shop.recipe, 0)
    assert len(attack.train_victim(model, small_shop)) == 30
    assert {"poisoned", "first_stage_asr", "scaled_components"} <= attack.details.keys()
