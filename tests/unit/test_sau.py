"""SAU against its formulas, and what its perturbations keep."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from torch.autograd import grad

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses.sau import SAU, divergence, sharing_loss, unlearning_loss
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.models import frozen_copy
from backdoor_lab.training import CropFlip, Engine
from tests.tiny import SPEC, Tiny, tiny_aux


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(40)


def defense(engine=None, **changes):
    options = {
        "eps": 0.2, "step": None, "steps": 5, "adv_weight": 0.01, "share_weight": 1.0,
        "clean_weight": 1.0, "robust_weight": 0.0, "unlearn_weight": 1.0, "clamp": False,
        "train_mode": False, "rounds": 2, "lr": 1e-3, "batch_size": 16,
    }  # fmt: skip
    sau = SAU(**{**options, **changes})
    sau.attach(engine or Engine(accelerator="cpu", precision="32-true", progress=False), SPEC, 3)
    return sau


def lively(seed):
    """A network whose answers differ from image to image."""
    torch.manual_seed(seed)
    model = Tiny()
    with torch.no_grad():
        model.head.weight.mul_(4)
        images, _ = batch()
        model.train()(images)
        for norm in (model.body[1], model.body[4]):
            norm.momentum = 1.0
        model(images)
        model.head.bias.sub_(model.eval()(images).mean(0))
    return model


def batch(count=24):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 2


def ready(model=None, victim=None, **changes):
    """SAU in the middle of a round."""
    sau = defense(**changes)
    sau.model = model or lively(0).eval()
    sau.victim = frozen_copy(victim or lively(1))
    sau.on_train_epoch_start()
    return sau


def logits(count, seed, classes=5):
    return 3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def test_divergence_is_scipy_s():
    first, second = logits(9, 0), logits(9, 1)
    expected = jensenshannon(first.softmax(1).numpy(), second.softmax(1).numpy(), axis=1) ** 2
    torch.testing.assert_close(divergence(first, second), torch.from_numpy(expected).float())
    assert divergence(first, first).abs().max() < 1e-6
    assert divergence(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])).isfinite().all()


def by_hand(pair, answers, labels, adv_weight, share_weight):
    """The inner loss, an image and a network at a time."""
    wrong = apart = 0.0
    for n, label in enumerate(labels.tolist()):
        rows = [each[n].double().softmax(0) for each in pair]
        found = [int(row.argmax()) for row in rows]
        fooled = [now != int(before[n]) for now, before in zip(found, answers, strict=True)]
        wrong += sum(
            -float(row[label].log()) for row, off in zip(rows, fooled, strict=True) if not off
        )
        if not (all(fooled) and found[0] == found[1]):
            apart += float(jensenshannon(*(row.numpy() for row in rows)) ** 2)
    return (share_weight * apart - adv_weight * wrong / 2) / len(labels)


@pytest.mark.parametrize("weights", [(0.01, 1.0), (1.0, 0.0), (0.3, 0.7)])
def test_the_inner_loss_is_its_formula(weights):
    pair, labels = (logits(40, 0), logits(40, 1)), torch.arange(40) % 5
    answers = logits(40, 2).argmax(1), logits(40, 3).argmax(1)
    found = sharing_loss(pair, answers, labels, *weights).item()
    assert found == pytest.approx(by_hand(pair, answers, labels, *weights), rel=1e-4)


def test_what_is_shared_is_left_alone():
    pair = (logits(6, 0).requires_grad_(), logits(6, 0) + 0.1)
    before = (pair[0].argmax(1) + 1) % 5
    loss = sharing_loss(pair, (before, before), before, 0.01, 1.0)
    assert loss == 0
    assert not grad(loss, pair[0])[0].any()


def test_the_unlearning_loss_is_its_formula_and_pushes_the_class_down():
    scores = (logits(12, 4) / 3).requires_grad_()
    classes, fooled = torch.arange(12) % 5, torch.arange(12) % 3 > 0
    loss = unlearning_loss(scores, classes, fooled)
    expected = 0.0
    for row, k, off in zip(
        scores.detach().double(), classes.tolist(), fooled.tolist(), strict=True
    ):
        p = row.softmax(0)
        rest = min(float(p.sum() - p[k]), 0.999)
        log = torch.tensor([1e-6 + rest, 1 + 1e-6 - max(float(p[k]), 0.001)]).log()
        expected -= off * float(log.sum()) / 2
    assert loss.item() == pytest.approx(expected / 12, rel=1e-4)
    (slope,) = grad(loss, scores)
    assert not slope[~fooled].any()
    own = slope.gather(1, classes[:, None]).squeeze(1)[fooled]
    assert (own > 0).all()


def test_a_class_below_a_thousandth_is_pushed_no_further():
    scores = torch.tensor([[0.0, 9.0], [0.0, 2.0], [200.0, 0.0]], requires_grad=True)
    loss = unlearning_loss(scores, torch.tensor([0, 0, 0]), torch.tensor([True] * 3))
    (slope,) = grad(loss, scores)
    assert not slope[0].any()
    assert slope[1, 0] > 0
    assert slope.isfinite().all()


def by_reference(model, victim, images, labels, steps=5, eps=0.2):
    """The reference's ascent, with its early end, image sets instead of masks."""
    delta = torch.full_like(images, eps)
    for _ in range(steps):
        delta.requires_grad_()
        clean = [net(images).argmax(1) for net in (model, victim)]
        found = [net(images + delta) for net in (model, victim)]
        moved = [each.argmax(1) for each in found]
        fooled = [now != before for now, before in zip(moved, clean, strict=True)]
        shared = fooled[0] & fooled[1] & (moved[0] == moved[1])
        wrong = sum(
            F.cross_entropy(each, labels, reduction="none")[~off].sum()
            for each, off in zip(found, fooled, strict=True)
        )
        p, q = (each.softmax(1).clamp(min=1e-8) for each in found)
        m = 0.5 * (p + q)
        js = 0.5 * (p * p.log() + q * q.log()) - 0.5 * (p * m.log() + q * m.log())
        loss = (-0.01 * wrong / 2 + js[~shared].sum()) / len(images)
        (slope,) = grad(loss, delta)
        delta = (delta - eps * slope.sign()).clamp(-eps, eps).detach()
        if shared.all():
            break
    return delta


@pytest.fixture
def given():
    images, labels = batch()
    sau = ready()
    answers = sau.model(images).argmax(1), sau.victim(images).argmax(1)
    return sau, images, labels, answers


def test_perturbations_are_those_of_the_reference(given):
    sau, images, labels, answers = given
    expected = by_reference(sau.model, sau.victim, images, labels)
    found = sau.perturbation(images, labels, answers)
    assert (found - expected).abs().gt(1e-6).float().mean() < 0.001  # signs of rounding errors
    assert all(weight.grad is None for weight in sau.model.parameters())
    assert set((found / 0.2).round(decimals=4).unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert len(found.unique()) > 1


def test_perturbations_stay_within_their_bounds(given):
    sau, images, labels, answers = given
    free = sau.perturbation(images, labels, answers)
    assert free.abs().max() <= 0.2
    assert (images + free).max() > 1
    sau.clamp = True
    held = images + sau.perturbation(images, labels, answers)
    assert held.min() >= 0
    assert held.max() <= 1
    fine = ready(sau.model, sau.victim, step=0.03, steps=1)
    assert fine.perturbation(images, labels, answers).min() >= 0.17 - 1e-6


def test_more_images_are_shared_than_at_the_start():
    images, labels = batch()
    model, victim = lively(2).eval(), lively(2).eval()
    torch.manual_seed(9)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * weight.abs().mean() * torch.randn_like(weight))
    sau, answers = ready(model, victim), (model(images).argmax(1), victim(images).argmax(1))

    def shared(delta):
        found = [net(images + delta).argmax(1) for net in (model, victim)]
        alike = found[0] == found[1]
        return int((alike & (found[0] != answers[0]) & (found[1] != answers[1])).sum())

    assert shared(sau.perturbation(images, labels, answers)) > 2 * shared(0.2)


def test_one_step_is_that_of_the_reference(given):
    sau, images, labels, answers = given
    sau.robust_weight = 0.5
    weights = list(sau.model.parameters())
    computed = grad(sau.training_step((images, labels), 0), weights)
    perturbed = images + sau.perturbation(images, labels, answers)
    clean, found = sau.model(images), sau.model(perturbed)
    mistakes = sau.victim(perturbed).argmax(1)
    off = (mistakes != labels) & (mistakes != answers[1])
    assert off.any()
    hot = F.one_hot(mistakes, 2)
    rest = (found.softmax(1) * (1 - hot)).sum(1)[off]
    own = (found.softmax(1) * hot).sum(1)[off]
    pushed = (1e-6 + rest.clamp(max=0.999)).log().sum() + (
        1 + 1e-6 - own.clamp(min=0.001)
    ).log().sum()
    loss = F.cross_entropy(clean, labels) + 0.5 * F.cross_entropy(found, labels)
    expected = grad(loss - pushed / 2 / len(images), weights)
    for got, wanted in zip(computed, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-6)


def test_one_step_lowers_what_the_victim_takes_the_images_for(given):
    sau, images, labels, answers = given
    sau.clean_weight = 0.0
    perturbed = images + sau.perturbation(images, labels, answers)
    mistakes = sau.victim(perturbed).argmax(1)
    off = (mistakes != labels) & (mistakes != answers[1])

    def taken():
        return sau.model(perturbed).softmax(1).gather(1, mistakes[:, None])[off].mean()

    before = taken()
    optimizer = torch.optim.SGD(sau.model.parameters(), lr=1e-3)
    sau.training_step((images, labels), 0).backward()
    optimizer.step()
    assert taken() < before


def test_without_a_fooled_victim_the_loss_is_cross_entropy(given):
    sau, images, labels, _ = given
    with torch.no_grad():
        for name, bias in sau.victim.named_parameters():
            if name == "head.bias":
                bias.copy_(torch.tensor([1e4, 0.0]))
    loss = sau.training_step((images, labels), 0)
    torch.testing.assert_close(loss, F.cross_entropy(sau.model(images), labels))
    assert sau.fooled == 0
    assert sau.seen == 24


def purified(model, aux, engine=None, **changes):
    sau = defense(engine, **changes)
    return sau, sau.purify(deepcopy(model), aux)


def test_running_statistics_stay_unless_train_mode_is_on(aux):
    model = lively(0)
    before, buffers = model.state_dict(), dict(model.named_buffers())
    sau, after = purified(model, aux)
    for name, value in after.state_dict().items():
        assert torch.equal(value, before[name]) == (name in buffers), name
    assert 0 <= sau.details["fooled"] <= 1
    assert not after.training
    moved = purified(model, aux, train_mode=True)[1].state_dict()
    assert int(moved["body.1.num_batches_tracked"]) == 6 + int(before["body.1.num_batches_tracked"])
    assert not torch.equal(moved["body.1.running_mean"], before["body.1.running_mean"])


def test_every_option_has_an_effect(aux):
    model = lively(0)
    usual = purified(model, aux)[1].head.weight
    for changes in (
        {"eps": 0.1}, {"step": 0.02}, {"steps": 1}, {"adv_weight": 10}, {"share_weight": 0},
        {"clean_weight": 0}, {"robust_weight": 1}, {"unlearn_weight": 0}, {"clamp": True},
        {"train_mode": True}, {"rounds": 1}, {"lr": 1e-4}, {"batch_size": 20},
    ):  # fmt: skip
        assert not torch.equal(usual, purified(model, aux, **changes)[1].head.weight), changes


def test_images_are_not_augmented(aux, monkeypatch):
    def refuse(self, count, generator):
        raise AssertionError

    monkeypatch.setattr(CropFlip, "draw", refuse)
    purified(lively(0), aux)


def test_every_weight_learns_under_mixed_precision(aux):
    half = Engine(accelerator="cpu", precision="bf16-mixed", progress=False)
    model = lively(0)
    after = dict(purified(model, aux, half)[1].named_parameters())
    for name, before in model.named_parameters():
        assert not torch.equal(after[name], before), name
    close = dict(purified(model, aux)[1].named_parameters())
    assert (after["head.bias"] - close["head.bias"]).abs().max() < 0.02


def test_labels_are_asked_for(aux):
    assert spelled(defense()) == "sau"
    with pytest.raises(ConfigError, match="but defense=sau needs labels"):
        defense().check(has_images=True, labelled=False)
    with pytest.raises(ConfigError, match="aux.labelled=false"):
        defense().purify(Tiny(), AuxiliarySet("external", aux.data, False))
    with pytest.raises(ConfigError, match=r"1 image\(s\), but defense=sau needs more"):
        defense().check_size(1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("eps", 0), ("step", 0), ("steps", 0), ("adv_weight", -1), ("rounds", 0), ("lr", 0)],
)
def test_bad_values_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        defense(**{key: value})
