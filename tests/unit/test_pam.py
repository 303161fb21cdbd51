"""PAM: where the gradient is taken, what is reversed, what is left alone."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses.pam import PAM
from backdoor_lab.detectors.bti_dbf.decoupling import benign_mask
from backdoor_lab.models import Classifier
from backdoor_lab.training.batches import as_floats
from tests.tiny import SPEC, drawn_tiny, tiny_aux

OPTIONS = {
    "rho": 0.5, "reversed_share": 0.2, "rounds": 2, "images": 8, "mask_iterations": 2,
    "mask_lr": 0.01, "generator_iterations": 2, "generator_width": 8, "generator_lr": 1e-3,
    "generator_batch_size": 4,
    "image_bound": 0.3, "feature_bound": 3.0, "benign": 0.01, "epochs": 1, "lr": 0.01,
    "momentum": 0.1, "batch_size": 8,
}  # fmt: skip


def pam(**changes):
    return PAM(**OPTIONS | changes)


@pytest.fixture
def small():
    """The tiny network as a classifier, whose features are known."""
    classifier = Classifier("preact_resnet18", SPEC, options={"width": 16})
    classifier.net = drawn_tiny()
    return classifier.eval()


def at(step, weights, home):
    """A step of one vector of weights whose victim had those of `home`."""
    step.model = nn.Linear(3, 1, bias=False)
    step.model.weight.data = torch.tensor([weights])
    step.home = {"weight": torch.tensor([home])}
    return step.onward()["weight"]


def test_the_way_back_is_rho_long_and_one_norm_over_all_weights():
    found = at(pam(), [1.0, 2.0, 2.0], [1.0, 2.0, 5.0])  # the fact sheet's own figures
    assert found.tolist() == [[1.0, 2.0, 2.5]]
    model, step = drawn_tiny(), pam(rho=0.7)
    step.home = {name: w.detach() + torch.randn_like(w) for name, w in model.named_parameters()}
    step.model = model
    moved = [step.onward()[name] - weight for name, weight in model.named_parameters()]
    assert torch.cat([one.flatten() for one in moved]).norm().item() == pytest.approx(0.7, 1e-5)


def test_at_home_there_is_no_way_back():
    assert at(pam(), [1.0, 2.0, 2.0], [1.0, 2.0, 2.0]).tolist() == [[1.0, 2.0, 2.0]]


def graded(step, model, images, labels):
    step.model = model.train()
    step.reverse = nn.Identity()
    loss = step.training_step((images, labels), 0)
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def test_the_gradient_is_that_of_the_moved_weights_and_the_weights_stay():
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 2
    model, step = drawn_tiny(), pam(rho=2.0)
    step.home = {name: w.detach() + torch.randn_like(w) for name, w in model.named_parameters()}
    before = deepcopy(dict(model.named_parameters()))
    found = graded(step, model, images, labels)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    back = {name: step.home[name] - weight.detach() for name, weight in before.items()}
    length = torch.cat([one.flatten() for one in back.values()]).norm()
    other = drawn_tiny().train()
    with torch.no_grad():
        for name, weight in other.named_parameters():
            weight += 2.0 * back[name] / length
    F.cross_entropy(other(images), labels).backward()
    for name, weight in other.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_without_rho_it_is_plain_descent():
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 2
    model, step = drawn_tiny(), pam(rho=0.0)
    step.home = {name: w.detach() + 1 for name, w in model.named_parameters()}
    found = graded(step, model, images, labels)
    other = drawn_tiny().train()
    F.cross_entropy(other(images), labels).backward()
    for name, weight in other.named_parameters():
        torch.testing.assert_close(found[name], weight.grad)


@pytest.mark.parametrize(("count", "expected"), [(8, 2), (10, 3), (4, 1)])
def test_so_many_of_a_batch_are_reversed_and_keep_their_labels(count, expected):
    step, seen = pam(), []

    class Negates(nn.Module):
        def forward(self, images):
            return 1 - images

    class Watches(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, images):
            seen.append(images)
            return self.head(images.mean((2, 3)))

    torch.manual_seed(0)
    step.model, step.reverse = Watches(), Negates()
    step.home = {name: w.detach() for name, w in step.model.named_parameters()}
    images, labels = torch.rand(count, 3, 8, 8), torch.arange(count) % 2
    loss = step.training_step((images, labels), 0)
    wanted = torch.cat([1 - images[:expected], images[expected:]])
    assert torch.equal(seen[0], wanted)
    torch.testing.assert_close(loss, F.cross_entropy(step.model(wanted), labels))


def purified(engine, model, **changes):
    step = pam(**changes)
    step.attach(engine, SPEC, 3)
    return step.purify(deepcopy(model), tiny_aux(16))


def test_each_round_reverses_what_it_starts_from_and_looks_back_at_the_victim(
    engine, small, monkeypatch
):
    known, begun, homes, fit = [], [], [], PAM.fit
    images = torch.rand(4, 3, 8, 8)

    def made(features, *_):
        known.append(features(images))
        return nn.Identity()

    def watched(self, model, data):
        begun.append(model.features(images).detach())
        homes.append(deepcopy(self.home))
        return fit(self, model, data)

    monkeypatch.setattr("backdoor_lab.defenses.pam.reversal", made)
    monkeypatch.setattr(PAM, "fit", watched)
    purified(engine, small, rounds=2, lr=0.1)
    for found, expected in zip(known, begun, strict=True):
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(known[0], known[1], atol=0.01)
    for home in homes:
        assert home.keys() == dict(small.named_parameters()).keys()
        assert all(torch.equal(home[name], weight) for name, weight in small.named_parameters())


def test_features_that_serve_the_images_own_classes_are_spared(engine, small, monkeypatch):
    found, data = {}, tiny_aux(16).data

    def masked(head, features, labels, *rest):
        mask = benign_mask(head, features, labels, *rest)
        found.update(features=features, labels=labels, mask=mask)
        return mask

    def made(features, images, mask, *_):
        found.update(images=images, spared=mask)

    monkeypatch.setattr("backdoor_lab.defenses.pam.benign_mask", masked)
    monkeypatch.setattr("backdoor_lab.defenses.pam.reversal", made)
    step = pam()
    step.attach(engine, SPEC, 3)
    step.reversal_of(small, data, 0)
    assert len(found["images"]) == OPTIONS["images"]
    same = (found["images"][:, None] == as_floats(data.images)).flatten(2).all(2)
    assert torch.equal(found["labels"], data.labels[same.int().argmax(1)])
    torch.testing.assert_close(found["features"], small.features(found["images"]).detach())
    assert torch.equal(found["spared"], found["mask"])


TUNING = {
    "rho": 0.1, "reversed_share": 0.5, "rounds": 2, "epochs": 2, "lr": 0.1, "momentum": 0.9,
    "batch_size": 4,
}  # fmt: skip
GENERATOR = {
    "images": 16, "mask_iterations": 20, "mask_lr": 1.0, "generator_iterations": 4,
    "generator_width": 4, "generator_lr": 1e-3, "generator_batch_size": 8, "image_bound": 1e-9,
    "feature_bound": 1e-9, "benign": 10.0,
}  # fmt: skip


@pytest.mark.parametrize("changes", [TUNING, GENERATOR], ids=["tuning", "generator"])
def test_every_option_has_an_effect(engine, small, changes):
    usual = {"rounds": 1, "generator_iterations": 3, "generator_width": 2, "generator_lr": 0.02}
    expected = purified(engine, small, **usual).net.head.weight
    for name, value in changes.items():
        found = purified(engine, small, **usual | {name: value}).net.head.weight
        assert not torch.equal(found, expected), name


def test_no_option_is_left_out():
    assert TUNING.keys() | GENERATOR.keys() == OPTIONS.keys()


def test_a_purification_is_repeatable_and_keeps_what_it_was_given(engine, model, spec, images):
    aux = AuxiliarySet("seen", images, True)
    made = []
    for _ in range(2):
        step = pam()
        step.attach(engine, spec, 3)
        made.append(step.purify(deepcopy(model), aux).state_dict())
        assert not hasattr(step, "home")
        assert not hasattr(step, "reverse")
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
    assert any(not torch.equal(value, made[0][name]) for name, value in model.state_dict().items())


def test_statistics_are_those_of_the_purified_weights(engine, model, spec, images):
    step = pam()
    step.attach(engine, spec, 3)
    purified = step.purify(deepcopy(model), AuxiliarySet("seen", images, True))
    again = deepcopy(purified)
    engine.refresh_statistics(again, images, OPTIONS["batch_size"])
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, purified.state_dict()[name], msg=name)


@pytest.mark.parametrize("wrong", [{"rho": -1}, {"reversed_share": 0}, {"rounds": 0}, {"lr": 0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        pam(**wrong)
