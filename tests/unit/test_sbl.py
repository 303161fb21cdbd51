"""SBL: its split, sprinkled batches, two stages, and what it may wrap."""

import math
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backdoor_lab.attacks.adaptive import Adaptive
from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.attacks.blended import Blended
from backdoor_lab.attacks.input_aware import InputAware
from backdoor_lab.attacks.lira import LIRA
from backdoor_lab.attacks.none import NoAttack
from backdoor_lab.attacks.sbl import SBL
from backdoor_lab.attacks.sbl.continual import no_penalty
from backdoor_lab.attacks.sbl.first_stage import FirstStage, unchanged
from backdoor_lab.attacks.sbl.sbl import PENALTIES
from backdoor_lab.attacks.sig import SIG
from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe

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
    assert (len(mixed), len(clean)) == (pytest.approx(42500, abs=5), pytest.approx(5000, abs=5))


def test_sprinkled_batches_bear_the_patch_bit_for_bit():
    attack = attached()
    images = torch.rand(4000, 3, 8, 8) * 0.5
    labels = torch.ones(4000, dtype=torch.int64)
    after, wanted = attack.sprinkled(0.1, images, labels, torch.Generator().manual_seed(0))
    hit = wanted == 0
    assert abs(hit.sum() - 400) < 4 * math.sqrt(4000 * 0.1 * 0.9)
    patch = attack.inner.levels[:, -3:, -3:]
    assert (after[hit][..., -3:, -3:] == patch).all()
    assert torch.equal(after[~hit], images[~hit])
    assert torch.equal(after[..., :5, :5], images[..., :5, :5])


def test_a_rate_of_the_class_is_a_share_of_all_images():
    labels = torch.arange(1000) % 10
    assert attached(SIG(0.8, 0)).share(labels) == pytest.approx(0.08)
    assert attached(BadNets(0.1, 0)).share(labels) == pytest.approx(0.1)
    assert len(attached(SIG(0.8, 0), dat=False).choose(labels)) == 80


@pytest.mark.parametrize("dat", [True, False])
def test_a_rate_that_means_no_image_is_refused(dat):
    with pytest.raises(ConfigError, match="attack.inner.poison_rate=0.001 means 0 image"):
        attached(BadNets(0.001, 0), dat=dat).choose(some_images().labels)


def test_a_rate_of_a_class_that_holds_most_images_is_refused_before_training():
    with pytest.raises(ConfigError, match="of target_class triggers 72% of all images"):
        attached(SIG(0.8, 0)).choose((torch.arange(1000) % 10 == 0).long())


def test_the_first_stage_triggers_the_share_that_the_rate_means(small_shop, model, monkeypatch):
    shares = []
    sprinkled = SBL.sprinkled

    def watched(self, share, *batch):
        shares.append(share)
        return sprinkled(self, share, *batch)

    monkeypatch.setattr(SBL, "sprinkled", watched)
    options = {"clean_share": 0.4, "first_epochs": 1, "second_epochs": 1, "penalty": "naive"}
    attack = SBL(SIG(0.8, 0), **options)
    attack.attach(small_shop.data.spec, small_shop.recipe, 0)
    attack.train_victim(model, small_shop)
    assert {round(share, 6) for share in shares} == {0.08}


def test_only_the_images_that_are_kept_are_triggered(monkeypatch):
    attack = attached()
    made = []

    def watched(images):
        made.append(len(images))
        return torch.ones_like(images)

    monkeypatch.setattr(attack.inner, "train_trigger", watched)
    images, labels = torch.zeros(128, 3, 8, 8), torch.ones(128, dtype=torch.int64)
    draw = torch.Generator().manual_seed(0)
    after, wanted = attack.sprinkled(0.1, images, labels, draw)
    assert made == [int((wanted == 0).sum())]
    assert torch.equal(after.flatten(1).all(1), wanted == 0)
    attack.sprinkled(0.0, images, labels, draw)
    assert len(made) == 1


def test_a_warning_says_that_the_recipe_is_not_used(small_shop, model, caplog):
    learn(small_shop, model)
    assert [line for line in caplog.messages if "recipe.*" in line] == [
        "attack=sbl trains the victim by attack.first_* and attack.second_*: recipe.* counts only "
        "for what attack.inner learns beforehand"
    ]


def test_static_poisoning_counts_the_whole_split_and_relabels_clean_label_attacks():
    attack = attached(SIG(0.1, 0, "train_set"), dat=False)
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


def test_recipes_of_the_two_stages():
    attack = attached(second_epochs=7, step_scheduler=True)
    assert attack.first.settings == {
        "epochs": 150, "batch_size": 128, "lr": 0.01, "schedule": "cosine", "drop_last": False,
        "optimizer": "SAM(momentum=0.9, rho=0.05, weight_decay=0)",
    }  # fmt: skip
    assert attack.recipe.settings == {
        "epochs": 7, "batch_size": 256, "lr": 0.001, "schedule": "cosine", "drop_last": False,
        "optimizer": "SGD(momentum=0.9, nesterov=False, weight_decay=0.0005)",
    }  # fmt: skip
    assert attached().recipe.settings["schedule"] == "constant"


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


def test_a_step_of_the_second_stage_is_held_by_its_penalty(tiny):
    attack, seen = attached(strength=3), []
    attack.model = tiny.eval()
    attack.penalty = lambda *given: seen.append(given) or torch.tensor(0.5)
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 2
    loss = attack.training_step((images, labels), 0)
    logits = tiny(images)
    assert torch.allclose(loss, nn.functional.cross_entropy(logits, labels) + 3 * 0.5)
    assert torch.equal(seen[0][0], images)
    assert torch.equal(seen[0][1], logits)


@pytest.fixture
def asked(small_shop, model, monkeypatch):
    """What the penalty is made from, between two stages that learn nothing."""

    def ask(**options):
        seen = SimpleNamespace()

        def witness(model, batches, divisor):
            seen.batches, seen.divisor = list(batches), divisor
            return no_penalty(model, [], divisor)

        monkeypatch.setitem(PENALTIES, "ewc", witness)
        monkeypatch.setattr(SBL, "learn_first", lambda *_: None)
        monkeypatch.setattr("backdoor_lab.attacks._base.Attack.learn", lambda *_: None)
        attack = learn(small_shop, model, first_batch_size=16, **options)
        first, _ = attack.stages(small_shop.train.labels)
        task = small_shop.train.take(first)
        seen.clean = small_shop.engine.batches(task, 16, seed=0, augment=attack.augment)
        return seen

    return ask


@pytest.mark.parametrize("kind", ["clean", "mixed"])
def test_information_is_half_a_mean_over_whole_batches(asked, kind):
    seen = asked(fisher_data=kind)
    assert [len(labels) for _, labels in seen.batches] == [16, 16, 8]
    assert seen.divisor == 2 * 3 * 16


@pytest.mark.parametrize("dat", [True, False])
def test_information_of_clean_data_is_that_of_no_trigger(asked, dat):
    seen = asked(fisher_data="clean", dat=dat)
    for (images, labels), (before, known) in zip(seen.batches, seen.clean, strict=True):
        assert torch.equal(images, before)
        assert torch.equal(labels, known)


@pytest.mark.parametrize("dat", [True, False])
def test_information_of_mixed_data_is_that_of_triggers_too(asked, dat):
    seen = asked(fisher_data="mixed", dat=dat)
    for (images, labels), (before, known) in zip(seen.batches, seen.clean, strict=True):
        hit = (images != before).flatten(1).any(1)
        assert 0 < hit.sum() < len(hit)
        assert not labels[hit].any()
        assert torch.equal(labels[~hit], known[~hit])


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


def first_stage(attack, model, poisoning):
    return FirstStage(model, attack.first, None, 0, poisoning)


def gradient(model, images, labels):
    loss = nn.functional.cross_entropy(model(images), labels)
    return torch.autograd.grad(loss, list(model.parameters()))


def test_a_step_of_the_first_stage_is_the_formula(engine, tiny):
    """w - lr * g(w + rho * g(w) / |g(w)|), and one pass that moves the running statistics."""
    attack = attached(first_epochs=1, first_lr=0.1, first_batch_size=60, radius=0.05)
    data = some_images()
    images, labels = data.images.float() / 255, data.labels
    trained = deepcopy(tiny)
    home = [weight.detach().clone() for weight in tiny.parameters()]
    slope = gradient(tiny.train(), images, labels)
    statistics = {name: value.clone() for name, value in tiny.named_buffers()}
    length = torch.cat([part.flatten() for part in slope]).norm() + 1e-12
    with torch.no_grad():
        for weight, part in zip(tiny.parameters(), slope, strict=True):
            weight += 0.05 * part / length
    want = [
        weight - 0.1 * part
        for weight, part in zip(home, gradient(tiny, images, labels), strict=True)
    ]
    engine.fit(first_stage(attack, trained, unchanged), data, "test")
    assert trained.body[1].momentum == 0.1
    for weight, expected in zip(trained.parameters(), want, strict=True):
        assert torch.allclose(weight, expected, atol=1e-6)
    for name in ("body.1.running_mean", "body.4.running_var"):
        assert torch.allclose(trained.get_buffer(name), statistics[name], atol=1e-6)


def test_both_passes_of_a_step_see_the_same_poisoned_batch(engine, tiny):
    attack = attached(BadNets(0.5, 0), first_epochs=2, first_batch_size=20)
    made, passes = [], []

    def poisoning(*batch):
        made.append(attack.sprinkled(0.5, *batch))
        return made[-1]

    stage = first_stage(attack, tiny, poisoning)
    step = stage.training_step

    def training_step(batch, batch_idx):
        passes.append(batch)
        return step(batch, batch_idx)

    stage.training_step = training_step
    engine.fit(stage, some_images(), "test")
    assert len(made) == 6  # two epochs of three batches
    assert [id(images) for images, _ in passes] == [
        id(images) for images, _ in made for _ in range(2)
    ]
    assert (made[0][0][..., -1, -1] == 1).all(1).any()
    assert not torch.equal(made[0][1], made[3][1])  # each epoch draws anew


def learnt():
    return InputAware(0.1, 0, count_mask_epochs=False)


@pytest.mark.parametrize(
    ("attack", "refusal"),
    [
        (SBL(learnt()), "^attack.inner=input_aware"),
        (SBL(NoAttack()), "^attack.inner=none"),
        (SBL(LIRA(0)), "^attack.inner=lira with poison_rate=1.0 of train_set triggers 100%"),
        (SBL(SIG(0.8, 0, "train_set")), "^attack.inner=sig with poison_rate=0.8 of train_set"),
        (SBL(BadNets(0.6, 0)), "triggers 60% of all images; allowed: up to 50%$"),
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


def test_adaptive_around_it_returns_the_positions_too(small_shop, model):
    inner = SBL(BadNets(0.5, 0), clean_share=0.4, first_epochs=1, second_epochs=1, dat=False)
    attack = Adaptive(inner)
    attack.attach(small_shop.data.spec, small_shop.recipe, 0)
    chosen = attack.train_victim(model, small_shop)
    assert len(chosen) == 30
    assert torch.equal(chosen, inner.choose(small_shop.train.labels))
    assert {"poisoned", "first_stage_asr", "scaled_components"} <= attack.details.keys()
