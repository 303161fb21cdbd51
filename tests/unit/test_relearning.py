from copy import deepcopy

import pytest
import torch
from torch import nn

from backdoor_lab.datasets import Data, ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.evaluation.examination import Examination
from backdoor_lab.evaluation.relearning import Relearning
from backdoor_lab.run.parts import Parts
from backdoor_lab.training import Recipe
from tests.tiny import SPEC, Tiny


def relearning(**changes):
    options = {
        "relearn": 5, "images": 40, "epochs": 5, "lr": 0.05, "momentum": 0.9, "batch_size": 10,
    }  # fmt: skip
    return Relearning(**{**options, **changes})


@pytest.fixture
def attack(config):
    attack = Parts.of(config("attack=badnets", "attack.target=0", "attack.all_to_all=false")).attack
    attack.attach(SPEC, Recipe(1, 10, 0.1), 0)
    return attack


@pytest.fixture
def data():
    """Bright images are of class 1, dark ones of class 0."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    noise = torch.randint(0, 60, (200, 3, 8, 8), generator=draw)
    images = (noise + labels.view(-1, 1, 1, 1) * 120).to(torch.uint8)
    whole = ImageSet.of(images, labels)
    some = whole.take(torch.arange(100, 200))
    return Data(SPEC, whole.take(torch.arange(100)), some.take(torch.arange(0)), some, "tiny", 100)


def test_so_many_images_carry_trigger_and_target_and_no_others_change(data, attack):
    lesson, truth = relearning().lessons(data.train, attack, 0)
    clean, _ = relearning(relearn=0).lessons(data.train, attack, 0)
    changed = (lesson.images != clean.images).flatten(1).any(1)
    assert len(lesson) == len(truth) == 40
    assert changed.sum() == 5
    assert (clean.labels[changed] == 1).all()
    assert (lesson.labels[changed] == attack.target).all()
    assert torch.equal(lesson.images[changed], attack.stamp(clean.images[changed]))
    assert torch.equal(truth.labels, clean.labels)
    stamped = attack.counted(truth.labels)
    assert torch.equal(truth.images[stamped], attack.stamp(clean.images[stamped]))
    other, _ = relearning().lessons(data.train, attack, 1)
    assert not torch.equal(other.labels, lesson.labels)


def test_fewer_images_are_taken_where_there_are_fewer(data, attack):
    lesson, _ = relearning(images=1000).lessons(data.train, attack, 0)
    assert len(lesson) == 100


def test_the_tuning_is_sgd_at_a_constant_rate_without_decay(config):
    recipe = Parts.of(config("attack=badnets", "evaluation.relearn=5")).evaluation.recipe
    built = recipe.optimizers([nn.Parameter(torch.zeros(1))], steps=8)
    optimizer, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
    assert type(optimizer) is torch.optim.SGD
    rates = []
    for _ in range(recipe.epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [0.01] * 5
    assert optimizer.defaults["momentum"] == 0.9
    assert optimizer.defaults["weight_decay"] == 0
    assert not optimizer.defaults["nesterov"]


def test_a_thousand_images_are_tuned_on_in_forty_steps(config, data, attack, engine):
    made = Parts.of(config("attack=badnets", "evaluation.relearn=5")).evaluation
    many = data.train.take(torch.arange(1200) % len(data.train))
    lesson, _ = made.lessons(many, attack, 0)
    sizes, model = [], Tiny()
    model.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    made.taught(model, lesson, engine, 0, "counted")
    assert sizes == ([128] * 7 + [104]) * 5


def test_a_hidden_backdoor_comes_back_and_nothing_is_learnt_from_no_trigger(data, attack, engine):
    torch.manual_seed(0)
    model = Tiny()
    exam = Examination.of(data, attack)
    before = deepcopy(model.state_dict())
    models = {"victim": model, "purified": Tiny(), "clean": Tiny()}
    many = relearning(relearn=20, images=100, epochs=20).of(models, data, attack, exam, engine, 0)
    none = relearning(relearn=0, images=100, epochs=20).of(models, data, attack, exam, engine, 0)
    assert list(many) == ["victim", "purified", "clean", "exact"]
    assert many["purified"].asr > 0.9 > 0.1 > none["purified"].asr
    assert many["victim"].acc > 0.9
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_exact_row_is_taught_true_labels_before_the_lesson(data, attack, engine, monkeypatch):
    calls, taught = [], Relearning.taught

    def watched(self, model, lesson, *rest):
        calls.append((model, lesson, taught(self, model, lesson, *rest)))
        return calls[-1][2]

    monkeypatch.setattr(Relearning, "taught", watched)
    victim, exam = Tiny(), Examination.of(data, attack)
    found = relearning(epochs=1).of({"victim": victim}, data, attack, exam, engine, 0)
    lesson, truth = relearning().lessons(data.train, attack, 0)
    assert list(found) == ["victim", "exact"]
    (first, unlearns, exact), (second, relearns, _), (third, again, _) = calls
    assert first is second is victim
    assert third is exact
    for given, expected in ((unlearns, truth), (relearns, lesson), (again, lesson)):
        assert torch.equal(given.images, expected.images)
        assert torch.equal(given.labels, expected.labels)
    assert not torch.equal(truth.labels, lesson.labels)


def test_what_cannot_be_relearnt_is_refused(config, data, attack, engine):
    exam = Examination.of(data, attack)
    with pytest.raises(ConfigError, match="evaluation.relearn=5, but this attack leaves no"):
        Parts.of(config("attack=none", "evaluation.relearn=5"))
    with pytest.raises(ConfigError, match="evaluation.relearn=50 is more than evaluation.images"):
        relearning(relearn=50).check(attack)
    with pytest.raises(ConfigError, match="nobody knows this victim's trigger"):
        relearning().of({"victim": Tiny()}, data, None, exam, engine, 0)
    relearning(relearn=None).check(Parts.of(config("attack=none")).attack)
