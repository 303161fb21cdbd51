"""Edited architectures as text: told, refused, stored and built again."""

import json
from copy import deepcopy

import pytest
import torch
from torch import nn

from backdoor_lab.models import (
    Classifier,
    ModelFactory,
    freeze_except,
    frozen_copy,
    load_purified,
    replace,
    save_purified,
    thaw,
)
from backdoor_lab.models.layers import built, described
from backdoor_lab.training import Recipe, Tuning
from tests.tiny import SPEC

CONV = {"type": "Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": [3, 3]}
FACTORY = ModelFactory("preact_resnet18", options={"width": 16})


@pytest.fixture(scope="module")
def edited():
    """One convolution with a 1x1 convolution behind it, another one replaced by a smaller pair."""
    model = FACTORY.build(SPEC, seed=0)
    stem = model.net.conv1
    replace(model, "net.conv1", nn.Sequential(stem, nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)))
    pair = nn.Sequential(nn.Conv2d(128, 8, 1, bias=False), nn.Conv2d(8, 128, 3, padding=1))
    replace(model, "net.layer4.1.conv2", pair)
    model.train()(torch.rand(8, 3, 8, 8))
    return model.eval()


def layers():
    yield nn.Conv2d(4, 6, (3, 1), 2, padding=(1, 0), dilation=2, groups=2, padding_mode="reflect")
    yield nn.Conv2d(3, 5, 1, bias=False)
    yield nn.BatchNorm2d(7, eps=1e-3, momentum=None, affine=False)
    yield nn.Linear(2, 3, bias=False)
    yield nn.Sequential(nn.ReLU(inplace=True), nn.Sequential(nn.Identity(), nn.Linear(2, 3)))


@pytest.mark.parametrize("layer", layers(), ids=repr)
def test_text_and_layers_are_each_other_s_inverse(layer):
    text = described(layer)
    again = built(json.loads(json.dumps(text)))
    assert repr(again) == repr(layer)
    assert described(again) == text
    shapes = {name: value.shape for name, value in layer.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes


def test_stored_and_loaded_it_gives_the_same_logits(edited, tmp_path):
    save_purified(tmp_path, edited)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "purified.json", "purified.safetensors"
    ]  # fmt: skip
    loaded = load_purified(tmp_path)
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(loaded(images), edited(images))
    assert loaded.card() == edited.card()
    assert [edit["at"] for edit in loaded.edits] == ["net.conv1", "net.layer4.1.conv2"]


def test_copies_and_fresh_ones_have_the_edits_too(edited):
    for twin in (deepcopy(edited), edited.fresh(3)):
        assert twin.edits == edited.edits
        assert twin.edits is not edited.edits
        assert twin.state_dict().keys() == edited.state_dict().keys()
    assert not torch.equal(edited.fresh(3).net.conv1[1].weight, edited.net.conv1[1].weight)
    assert torch.equal(edited.fresh(3).net.conv1[1].weight, edited.fresh(3).net.conv1[1].weight)


def test_what_a_card_does_not_tell_cannot_be_loaded(edited, tmp_path):
    save_purified(tmp_path, edited)
    card = edited.card() | {"edits": edited.edits[:1]}
    (tmp_path / "purified.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="holds no purified model"):
        load_purified(tmp_path)
    (tmp_path / "purified.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="holds no purified model"):
        load_purified(tmp_path)


@pytest.mark.parametrize("path", ["", "net.conv9", "net.conv1.weight", "net.__class__", "net."])
def test_only_a_sub_module_can_be_replaced(path):
    model = FACTORY.build(SPEC, seed=0)
    with pytest.raises(ValueError, match="no sub-module"):
        replace(model, path, nn.Identity())
    assert not model.edits


class Sly(nn.ReLU):
    """No layer of the closed set, though it descends from one."""


@pytest.mark.parametrize(
    "layer",
    [
        Sly(),
        nn.GELU(),
        nn.Sequential(nn.GELU()),
        nn.Sequential(),
        nn.Conv2d(3, 4, 3, padding="same"),
    ],
)
def test_layers_outside_the_set_are_not_put_in(layer):
    model = FACTORY.build(SPEC, seed=0)
    if type(layer) is nn.Sequential and not len(layer):
        layer.add_module("named", nn.ReLU())
    with pytest.raises(ValueError, match=r"cannot be stored as text|valid"):
        replace(model, "net.conv1", layer)
    assert isinstance(model.net.conv1, nn.Conv2d)
    assert not model.edits


def nested(depth):
    text = CONV
    for _ in range(depth):
        text = {"type": "Sequential", "layers": [text]}
    return text


@pytest.mark.parametrize(
    "text",
    [
        {"type": "LSTM"},
        {"type": "os.system"},
        {"type": "Conv2d"},
        CONV | {"in_channels": -3},
        CONV | {"out_channels": 65_537},
        CONV | {"out_channels": "4"},
        CONV | {"bias": 1},
        CONV | {"kernel_size": [3, 1_000_000]},
        CONV | {"groups": 2},
        CONV | {"device": "cuda"},
        {"type": "BatchNorm2d", "num_features": 4, "eps": float("nan")},
        {"type": "Sequential", "layers": [CONV] * 33},
        nested(5),
        nested(100),
    ],
)
def test_hostile_layers_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        built(text)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "hf-hub:timm/resnet18"},
        {"architecture": "local-dir:/tmp"},
        {"architecture": "resnet18.hf-hub:x"},
        {"architecture": "resnet19"},
        {"options": {"checkpoint_path": "/tmp/evil.pth"}},
        {"options": {"pretrained_cfg": "https://evil"}},
        {"options": {"pretrained": True}},
        {"options": {"width": 10**9}},
        {"options": {"width": 65_536}},
        {"options": {"wdith": 16}},
        {"options": {"width": 8}},
        {"options": {"width": {"_target_": "os.system"}}},
        {"small_stem": True},
        {"classes": []},
        {"shape": [3, 8]},
        {"mean": [0.5]},
        {"std": [0.5, 0.5, 0.0]},
        {"edits": [{"at": "net.conv9", "layer": {"type": "Identity"}}]},
        {"edits": [{"at": "__class__", "layer": {"type": "Identity"}}]},
        {"edits": [{"at": "net.__dict__.x", "layer": {"type": "Identity"}}]},
        {"edits": [{"at": "net.conv1", "layer": {"type": "Evil"}}]},
        {"edits": [{"at": "net.conv1", "layer": CONV | {"out_channels": -1}}]},
        {"extra": 1},
    ],
    ids=str,
)
def test_hostile_cards_are_refused(change):
    card = FACTORY.build(SPEC, seed=0).card()
    with pytest.raises(ValueError, match=r"."):
        Classifier.of(card | change)


def test_all_but_one_part_stays_as_it_is_until_it_is_thawed(edited):
    model = deepcopy(edited)
    freeze_except(model, model.net.conv1[2])
    Tuning(model, Recipe(1, 2, 0.1), None, 0).train()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"net.conv1.2.weight", "net.conv1.2.bias"}
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert [name for name in norms if model.get_submodule(name).training] == ["net.conv1.2"]
    assert not model.net.training  # which would switch dropout on between its layers
    copy = frozen_copy(model)
    Tuning(copy, Recipe(1, 2, 0.1), None, 0).train()
    assert not any(module.training for module in copy.modules())
    thaw(model)
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(hasattr(module, "frozen") for module in model.modules())
