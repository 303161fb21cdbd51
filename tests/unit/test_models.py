import json
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import Classifier, ModelFactory

CONF = Path(__file__).parents[2] / "conf" / "model"
ZOO = sorted(path.stem for path in CONF.glob("*.yaml"))


def spec(classes=10, size=32):
    names = tuple(str(number) for number in range(classes))
    return DataSpec("x", names, (3, size, size), (0.5, 0.4, 0.3), (0.2, 0.2, 0.3), 4, False)


def from_zoo(name, **changes):
    config = OmegaConf.load(CONF / f"{name}.yaml")
    return instantiate(OmegaConf.merge(config, changes))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(make):
    """What `make` builds, without memory for its weights."""
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize("name", [name for name in ZOO if not name.startswith("vgg")])
def test_zoo_builds_and_classifies(name):
    model = from_zoo(name).build(spec(7), seed=0).eval()
    with torch.inference_mode():
        images = torch.rand(2, 3, 32, 32)
        logits, features = model(images), model.features(images)
        assert logits.shape == (2, 7)
        assert features.shape == (2, model.head.in_features)
        torch.testing.assert_close(model.head(features), logits)


@pytest.mark.parametrize("name", ZOO)
def test_zoo_is_told_by_its_card(name):
    model = on_meta(lambda: from_zoo(name).build(spec(7), seed=0))
    card = json.loads(json.dumps(model.card()))
    twin = on_meta(lambda: Classifier.of(card))
    assert twin.card() == card
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in twin.state_dict().items()} == shapes
    assert repr(twin) == repr(model)
    images = torch.rand(2, 3, 32, 32, device="meta")
    assert twin.eval()(images).shape == (2, 7)
    assert twin.features(images).shape == (2, twin.head.in_features)


def test_fresh_is_another_draw_of_the_same_architecture():
    model = from_zoo("preact_resnet18_narrow").build(spec(), seed=0).eval()
    twin = model.fresh().eval()
    images = torch.rand(2, 3, 32, 32)
    assert not torch.equal(twin.head.weight, model.head.weight)
    assert torch.equal(twin.head.weight, model.fresh().head.weight)
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin(images), model(images))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_large", "preact_resnet18_narrow"])
def test_trains_with_four_images(name):
    model = from_zoo(name).build(spec(), seed=0).train()
    model(torch.rand(4, 3, 32, 32)).square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_preact_resnet18_golden_numbers():
    model = from_zoo("preact_resnet18").build(spec(), seed=0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert count(model) == 11_171_146
    assert len(norms) == 16
    assert sum(norm.weight.numel() + norm.bias.numel() for norm in norms) == 6_784


def test_small_stem_only_for_small_images():
    factory = from_zoo("resnet18")
    small, large = (factory.build(spec(size=size), seed=0) for size in (64, 224))
    assert count(small) == 11_173_962
    assert count(large) == 11_181_642
    assert small.net.conv1.kernel_size == (3, 3)


def test_normalisation_is_inside():
    model = from_zoo("preact_resnet18_narrow").build(spec(), seed=0).eval()
    mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    torch.testing.assert_close(model(mean), model.net(torch.zeros(1, 3, 32, 32)))
    assert {"normalize.mean", "normalize.std"} <= model.state_dict().keys()


def test_seed_alone_decides_the_weights():
    factory = from_zoo("preact_resnet18_narrow")
    before = torch.random.get_rng_state()
    first = factory.build(spec(), seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    same, other = factory.build(spec(), seed=1), factory.build(spec(), seed=2)
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (ModelFactory("resnet19"), "resnet18"),
        (ModelFactory("preact_resnet18", pretrained=True), "no weights of preact_resnet18"),
        (ModelFactory("preact_resnet18", options={"width": 8}), "width=8"),
        (ModelFactory("preact_resnet18", options={"wdith": 64}), "wdith"),
        (ModelFactory("mobilenetv2_100", small_stem=True), "small_stem"),
    ],
)
def test_refusals(factory, told):
    with pytest.raises(ConfigError, match=told):
        factory.build(spec(), seed=0)
