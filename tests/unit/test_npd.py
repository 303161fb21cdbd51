import math
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from backdoor_lab.config import CONF
from backdoor_lab.defenses.npd import NPD
from backdoor_lab.defenses.npd.adversary import misled, projected
from backdoor_lab.defenses.npd.npd import polarizing, runner_up
from backdoor_lab.defenses.npd.polarizer import place, polarizer
from backdoor_lab.errors import ConfigError
from backdoor_lab.models.layers import described
from backdoor_lab.training import Engine
from tests.conftest import names
from tests.tiny import SPEC, Tiny, tiny_aux

SEARCH = {
    "norm": "l2", "radius": 0.5, "start": "zero", "steps": 2, "step": 0.01, "sign": True,
    "stop_rate": 0.6,
}  # fmt: skip
WEIGHTS = {"clean": 1.0, "answer": 0.7, "wrong": 0.4, "target": 0.2}
LAYER = "body.3"


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Tiny()
    model.edits = []
    model.train()(torch.rand(64, 3, 8, 8))
    model.eval()
    with torch.no_grad():  # half of the images on either side
        model.head.weight.mul_(20)
        first, second = model(random_images(10)).unbind(1)
        model.head.bias[0] -= (first - second).median()
    return model


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(40)


def defense(precision="32-true", **changes):
    options = {
        "layer": None, "polarizer": "convbn", "warm_epochs": 1, "warm_lr": 1e-4,
        "adversary": SEARCH, "weights": WEIGHTS, "batch_statistics": False, "epochs": 1,
        "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 20,
    }  # fmt: skip
    npd = NPD(**{**options, **changes})
    engine = Engine(accelerator="cpu", precision=precision, progress=False)
    npd.attach(engine, SPEC, 3)
    return npd


def random_images(count=6):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 8, 8, generator=generator)


@pytest.mark.parametrize("kind", ["convbn", "onlyconv", "twoconv", "linear_light"])
def test_a_polarizer_is_the_identity_at_the_start(kind):
    layer = polarizer(kind, 5).eval()
    maps = torch.randn(3, 5, 4, 4)
    scale = (1 + 1e-5) ** (-0.5 * sum(isinstance(part, nn.BatchNorm2d) for part in layer))
    torch.testing.assert_close(layer(maps), scale * maps)
    assert described(layer)


def test_polarizers_have_the_weights_of_the_reference():
    counts = {
        kind: sum(weight.numel() for weight in polarizer(kind, 512).parameters())
        for kind in ("convbn", "onlyconv", "twoconv", "linear_light")
    }
    assert counts == {
        "convbn": 263_168, "onlyconv": 262_144, "twoconv": 526_336, "linear_light": 1_024
    }  # fmt: skip


PLACES = {
    "preact_resnet18": ("layer4.1.conv1", 512),  # the reference's
    "preact_resnet18_narrow": ("layer4.1.conv1", 128),
    "resnet18": ("layer4.1.conv2", 512),
    "resnet34": ("layer4.2.conv2", 512),
    "vgg19": ("features.34", 512),
    "vgg19_bn": ("features.49", 512),
    "densenet161": ("features.denseblock4.denselayer24.conv2", 192),
    "mobilenetv2": ("blocks.6.0.conv_pw", 160),
    "mobilenetv3_large": ("blocks.5.2.conv_pw", 160),
}


@pytest.mark.parametrize("name", names("model"))
def test_each_model_of_the_zoo_has_a_place(name, spec):
    with torch.device("meta"):
        model = instantiate(OmegaConf.load(CONF / "model" / f"{name}.yaml")).build(spec, 0)
    path = place(model, spec.shape)
    found = (path.removeprefix("net."), model.get_submodule(path).in_channels)
    assert PLACES[name] == found
    assert described(model.get_submodule(path))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
        nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 8), nn.Flatten()),
    ],
)
def test_a_model_without_a_place_is_refused(net):
    with pytest.raises(ConfigError, match="defense=npd"):
        defense().check_model(net)


@pytest.mark.parametrize("layer", ["body.9", "body.1", "body", "body.3.weight"])
def test_a_place_that_is_no_convolution_is_refused(model, layer):
    with pytest.raises(ConfigError, match=rf"defense\.layer={layer} is no Conv2d"):
        defense(layer=layer).check_model(model)
    defense(layer="body.0").check_model(model)


def test_the_place_can_be_chosen(model, aux):
    npd = defense(layer="body.0")
    purified = npd.purify(model, aux)
    assert [edit["at"] for edit in purified.edits] == ["body.0"]
    assert npd.details == {"layer": "body.0", "channels": 3, "weights": 9 + 6}


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_the_polarizer_alone_learns(model, aux, batch_statistics):
    victim = deepcopy(model.state_dict())
    npd = defense(batch_statistics=batch_statistics)
    purified = npd.purify(model, aux)
    kept = {key: key.replace(LAYER, f"{LAYER}.1") for key in victim}
    after = purified.state_dict()
    assert all(torch.equal(after[key], victim[before]) for before, key in kept.items())
    added = after.keys() - set(kept.values())
    assert {key.rsplit(".", 2)[0] for key in added} == {f"{LAYER}.0"}
    conv, norm = purified.body[3][0]
    assert not torch.equal(conv.weight, nn.init.dirac_(torch.empty_like(conv.weight)))
    assert (norm.weight != 1).any()
    assert (norm.bias != 0).any()
    assert not purified.training
    assert not hasattr(npd, "polarizer")


def features(model, images):
    """What the place is reached by."""
    return model.body[:3](images)


def test_the_warm_up_learns_the_statistics_of_clean_features(model, aux):
    images = aux.data.images.float() / 255
    maps = features(model, images).detach()
    held = {"epochs": 1, "lr": 1e-12, "batch_size": 40, "warm_lr": 1e-12}
    norm = defense(**held, warm_epochs=2).purify(deepcopy(model), aux).body[3][0][1]
    share = 1 - 0.9**2
    torch.testing.assert_close(norm.running_mean, share * maps.mean((0, 2, 3)))
    unbiased = maps.transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(norm.running_var, share * unbiased + (1 - share))
    norm = defense(**held, warm_epochs=0).purify(deepcopy(model), aux).body[3][0][1]
    assert torch.equal(norm.running_mean, torch.zeros(8))
    # one more look at the clean images, and none at the misled ones
    norm = defense(**held, warm_epochs=0, batch_statistics=True).purify(model, aux).body[3][0][1]
    torch.testing.assert_close(norm.running_mean, 0.1 * maps.mean((0, 2, 3)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_weight_of_the_polarizer_gets_a_gradient(model, aux, precision, monkeypatch):
    seen = {}

    def look(self, optimizer):
        seen.update({name: w.grad for name, w in self.polarizer.named_parameters()})

    monkeypatch.setattr(NPD, "on_before_optimizer_step", look)
    defense(precision).purify(model, aux)
    assert seen.keys() == {"0.weight", "1.weight", "1.bias"}
    assert all(gradient.abs().sum() > 0 for gradient in seen.values())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_perturbations_are_within_the_radius(norm):
    search = {**SEARCH, "norm": norm, "radius": 0.5}
    noise = torch.randn(5, 3, 8, 8) * torch.tensor([0, 0.001, 0.01, 1, 10.0]).view(5, 1, 1, 1)
    found = projected(noise, search).flatten(1).double()
    sizes = found.norm(dim=1) if norm == "l2" else found.abs().amax(1)
    assert (sizes <= 0.5 + 1e-5).all()
    assert torch.equal(found[:2], noise.flatten(1).double()[:2])
    assert sizes[4].item() == pytest.approx(0.5, abs=1e-5)


def by_hand(model, images, target, search):
    """The search of the reference, a sample at a time where it can be, with its own early stop."""
    noise = torch.full_like(images, search["radius"] if search["start"] == "edge" else 0)
    for _ in range(search["steps"]):
        noise.requires_grad_()
        loss = F.cross_entropy(model((images + noise).clamp(0, 1)), target)
        (gradient,) = torch.autograd.grad(loss, noise)
        noise = noise.detach() - search["step"] * (gradient.sign() if search["sign"] else gradient)
        for sample in noise:
            if search["norm"] == "linf":
                sample.clamp_(-search["radius"], search["radius"])
            elif sample.norm() > search["radius"]:
                sample.mul_(search["radius"] / sample.norm())
        logits = model((images + noise).clamp(0, 1))
        if (logits.argmax(1) == target).sum().item() / len(target) > search["stop_rate"]:
            break
    return (images + noise).clamp(0, 1)


CHANGES = [
    {},
    {"steps": 6, "stop_rate": 1.0},
    {"steps": 6, "stop_rate": 0.0},
    {"sign": False, "step": 20.0, "stop_rate": 1.0},
    {"norm": "linf", "radius": 0.2, "start": "edge", "steps": 4, "step": 0.44, "stop_rate": 1.0},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_images_are_misled_as_by_the_reference(model, changes):
    search = {**SEARCH, **changes}
    images = random_images(10)
    target = 1 - model(images).argmax(1)
    found = misled(model, images, target, search)
    torch.testing.assert_close(found, by_hand(model, images, target, search))
    assert not found.requires_grad
    assert (found >= 0).all()
    assert (found <= 1).all()
    if search["norm"] == "l2":
        assert ((found - images).flatten(1).norm(dim=1) <= search["radius"] + 1e-5).all()
    else:
        assert ((found - images).abs() <= search["radius"] + 1e-5).all()


def test_the_options_of_the_search_make_a_difference(model):
    images = random_images(10)
    target = 1 - model(images).argmax(1)
    found = [misled(model, images, target, {**SEARCH, **changes}) for changes in CHANGES]
    losses = [F.cross_entropy(model(each), target).item() for each in found]
    assert len({round(loss, 6) for loss in losses}) == len(CHANGES)
    assert max(losses[:2]) < F.cross_entropy(model(images), target).item()


def test_no_step_is_taken_once_enough_are_led_astray(model):
    images = random_images(10)
    one = {**SEARCH, "steps": 1}
    target = 1 - model(images).argmax(1)
    reached = (model(misled(model, images, target, one)).argmax(1) == target).float().mean().item()
    after = misled(model, images, target, {**one, "steps": 9, "stop_rate": reached - 1e-3})
    assert reached > 0
    assert torch.equal(after, misled(model, images, target, one))
    on = misled(model, images, target, {**one, "steps": 9, "stop_rate": reached})
    assert not torch.equal(on, after)


def test_runner_up_is_the_best_of_the_others():
    scores = torch.tensor([[3.0, 2, 1], [1, 3, 2], [-99, -50, -60]])
    assert runner_up(scores, torch.tensor([0, 0, 1])).tolist() == [1, 1, 2]


def test_the_loss_against_its_formula():
    rng = np.random.default_rng(0)
    clean, hard = rng.normal(size=(2, 5, 4)) * 3
    labels, answer, target = rng.integers(0, 4, size=(3, 5))
    weights = {"clean": 1.0, "answer": 0.4, "wrong": 0.5, "target": 0.1}
    total = 0.0
    for c, h, y, a, t in zip(clean, hard, labels, answer, target, strict=True):
        p, q = (np.exp(z) / np.exp(z).sum() for z in (c, h))
        k = max((k for k in range(4) if k != y), key=lambda k: q[k])
        terms = (-math.log(p[y]), -math.log(q[a]))
        pressed = (-math.log(1.0001 - q[i] + 1e-12) for i in (k, t))
        total += np.dot([1.0, 0.4, 0.5, 0.1], [*terms, *pressed]) / 5
    tensors = [torch.tensor(part) for part in (clean, hard, labels, answer, target)]
    assert polarizing(*tensors, weights).item() == pytest.approx(total, abs=1e-5)
    each = [polarizing(*tensors, dict.fromkeys(weights, 0.0) | {name: 1.0}) for name in weights]
    parts = sum(weights[name] * part for name, part in zip(weights, each, strict=True))
    assert parts.item() == pytest.approx(total, abs=1e-5)
    assert len({round(part.item(), 5) for part in each}) == 4


def test_one_step_by_hand(model, aux):
    """A batch of all images: the reference's order of things, SGD with weight decay."""
    images, labels = aux.data.images.float() / 255, aux.data.labels
    place = nn.Sequential(polarizer("convbn", 8), model.body[3])
    twin = deepcopy(model)
    twin.body[3] = deepcopy(place).eval()
    before = twin(images).detach()
    led = by_hand(twin, images, 1 - labels, SEARCH)  # of two classes the other one
    clean, hard = twin(images), twin(led)
    q = hard.softmax(1)
    pressed = -(1.0001 - q[torch.arange(40), 1 - labels]).log().mean()
    loss = F.cross_entropy(clean, labels) + 0.7 * F.cross_entropy(hard, before.argmax(1))
    loss = loss + 0.4 * pressed + 0.2 * pressed
    weights = list(twin.body[3][0].parameters())
    gradients = torch.autograd.grad(loss, weights)
    expected = [w - 0.01 * (g + 5e-4 * w) for w, g in zip(weights, gradients, strict=True)]
    purified = defense(warm_epochs=0, batch_size=40).purify(model, aux)
    for found, wanted in zip(purified.body[3][0].parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"polarizer": "mlp"},
        {"adversary": {**SEARCH, "radius": 0}},
        {"adversary": {**SEARCH, "norm": "l1"}},
        {"weights": {**WEIGHTS, "answer": -1}},
        {"epochs": 0},
        {"warm_lr": 0},
    ],
)
def test_values_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="validation error"):
        defense(**changes)
