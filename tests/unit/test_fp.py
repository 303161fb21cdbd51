from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses.fp import FP
from backdoor_lab.defenses.fp.channels import entries, last_stage, prunable_map
from backdoor_lab.defenses.fp.fp import first, zero
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Engine
from tests.tiny import SPEC, Tiny, tiny_aux
from tests.unit.test_models import from_zoo, on_meta
from tests.unit.test_models import spec as zoo_spec


class Block(nn.Module):
    """A residual block; its shortcut is a convolution."""

    def __init__(self, inputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, 6, 3, stride, 1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 12, 3, 1, 1), nn.BatchNorm2d(12)
        self.short = nn.Conv2d(inputs, 12, 1, stride)

    def forward(self, maps):
        inner = self.bn1(self.conv1(maps)).relu()
        return (self.bn2(self.conv2(inner)) + self.short(maps)).relu()


class Residual(nn.Module):
    """A stem and a stage of two blocks, whose inner maps are narrower than the last one."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.layer = nn.Sequential(Block(8, 2), Block(12, 1))
        self.head = nn.Linear(12, 2)

    def forward(self, images):
        return self.head(self.layer(self.norm(self.stem(images)).relu()).mean((2, 3)))


class Pooled(nn.Module):
    """A convolution reads the pooled map, as in VGG19 and MobileNetV3."""

    def __init__(self):
        super().__init__()
        self.body, self.reader = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 2)
        self.head = nn.Linear(16, 2)

    def forward(self, images):
        maps = F.adaptive_avg_pool2d(self.body(images), 2)
        return self.head(self.reader(maps).relu().flatten(1))


def made(kind):
    torch.manual_seed(1)
    return kind().eval()


def defense(**changes):
    options = {
        "where": "map", "statistic": "abs", "step": 0.01, "acc_ratio": 0.1, "tuned": "all",
        "epochs": 2, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 16,
        "t_max": None, "patience": None,
    }  # fmt: skip
    fp = FP(**{**options, **changes})
    fp.attach(Engine(accelerator="cpu", precision="32-true", progress=False), SPEC, 3)
    return fp


def answered(model, count=80):
    """Images (3, 8, 8) labelled as `model` labels them, half of them as the median asks."""
    images = tiny_aux(count).data.images
    with torch.no_grad():
        logits = model(images.float() / 255)
        gap = logits[:, 0] - logits[:, 1]
        model.head.bias[0] -= gap.quantile(0.5)  # between two images: on one, rounding decides
        labels = model(images.float() / 255).argmax(1)
    assert 0.3 < labels.float().mean() < 0.7
    return AuxiliarySet("seen", ImageSet.of(images, labels), True)


ZOO = [
    ("preact_resnet18", "net.layer4.1.conv2", "net.linear", "net.layer4"),
    ("resnet34", "net.layer4.2.conv2", "net.fc", "net.layer4"),
    ("densenet161", "net.features.denseblock4.denselayer24.conv2", "net.classifier", None),
    ("mobilenetv2", "net.conv_head", "net.classifier", None),
    ("mobilenetv3_large", "net.blocks.6.0.conv", "net.conv_head", None),
    ("vgg19", "net.features.34", "net.pre_logits.fc1", None),
    ("vgg19_bn", "net.features.49", "net.pre_logits.fc1", None),
]


@pytest.mark.parametrize(("name", "last", "reader", "stage"), ZOO, ids=[row[0] for row in ZOO])
def test_the_last_map_of_every_model_and_the_layer_behind_it(name, last, reader, stage):
    model = on_meta(lambda: from_zoo(name).build(zoo_spec(7), seed=0))
    assert prunable_map(model, 3) == (last, reader)
    assert last_stage(model, (3, 32, 32)) == stage


@pytest.mark.parametrize(("kind", "reader"), [(Tiny, "head"), (Pooled, "reader")])
def test_activity_is_the_mean_over_images_and_pixels(kind, reader):
    model, data = made(kind), tiny_aux(30).data
    seen = []
    handle = model.get_submodule(reader).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        model(data.images.float() / 255)
    handle.remove()
    units = seen[0].double().flatten(2) if seen[0].dim() > 2 else seen[0].double()[..., None]
    signed = defense(statistic="signed").activity(model, reader, data)
    torch.testing.assert_close(signed, units.mean((0, 2)), rtol=1e-6, atol=1e-8)
    magnitude = defense().activity(model, reader, data)
    torch.testing.assert_close(magnitude, units.abs().mean((0, 2)), rtol=1e-6, atol=1e-8)
    assert (kind is Pooled) != torch.equal(signed, magnitude)  # Tiny's map ends in a ReLU


def test_order_and_columns_are_backdoorbench_s_where_it_looks_at_signs():
    model, data = made(Tiny), tiny_aux(30).data
    loader = (data.images.float() / 255).split(7)
    with torch.no_grad():
        # as there: batch sums of the penultimate vector over N; first k of the sorted ones
        ranking = sum(model.body(batch).mean((2, 3)).sum(0) / 30 for batch in loader).argsort()
    order = defense(statistic="signed").activity(model, "head", data).argsort()
    assert torch.equal(order, ranking)
    expected = model.head.weight.detach().clone()
    expected[:, ranking[:3]] = 0
    zero(model, entries(model, "head", None, first(order, 3)))
    assert torch.equal(model.head.weight, expected)


def scripted(monkeypatch, fp, answers):
    """`choose` on a model whose accuracies are `answers`; also which columns were off at each."""
    model, looks, left = made(Tiny), [], iter(answers)

    def accuracy(trial, held):
        looks.append((trial.head.weight == 0).all(0).nonzero().flatten().tolist())
        return next(left)

    monkeypatch.setattr(fp.engine, "accuracy", accuracy)
    order = torch.tensor([5, 2, 7, 0, 1, 3, 4, 6])
    count = fp.choose(model, order, partial(entries, model, "head", None), tiny_aux(4).data)
    assert (model.head.weight != 0).all()
    return count, looks


def test_pruning_stops_before_the_first_look_that_loses_too_much(monkeypatch):
    count, looks = scripted(monkeypatch, defense(), [0.8, 0.81, 0.76, 0.721, 0.72, 0.9, 0.9])
    assert count == 3
    assert looks == [[], [5], [2, 5], [2, 5, 7], [0, 2, 5, 7]]


def test_a_higher_accuracy_does_not_stop_and_one_channel_stays(monkeypatch):
    count, looks = scripted(monkeypatch, defense(), [0.5, *[1.0] * 7])
    assert (count, len(looks)) == (7, 8)


def test_a_step_is_rounded_up(monkeypatch):
    count, looks = scripted(monkeypatch, defense(step=0.3), [1.0] * 3)
    assert count == 6
    assert [len(off) for off in looks] == [0, 3, 6]  # 2.4 channels


@pytest.mark.parametrize("accuracies", [[0.5, 0.9], [0.5, 0.5], [0.0, 0.0]])
def test_without_tolerance_nothing_is_pruned(monkeypatch, accuracies):
    assert scripted(monkeypatch, defense(acc_ratio=0.0), accuracies)[0] == 0


@pytest.mark.parametrize("kind", [Tiny, Residual, Pooled])
def test_pruned_are_the_least_active_and_the_accuracy_is_kept(kind):
    model = made(kind)
    aux = answered(model)
    victim = deepcopy(model)
    fp = defense(epochs=0)
    purified = fp.purify(model, aux)
    train, held = fp.hold_out(aux.data)
    reader, count = fp.details["layer"], fp.details["pruned"]
    order = fp.activity(victim, reader, train).argsort()
    weight = purified.get_submodule(reader).weight
    off = (weight.reshape(*weight.shape[:2], -1) == 0).all(2).all(0)
    assert off.nonzero().flatten().tolist() == order[:count].sort().values.tolist()
    assert 0 < count < fp.details["channels"] == len(order)
    after = fp.engine.accuracy(purified, held)
    assert after == fp.details["pruned_accuracy"]
    assert after > 0.9 * fp.details["accuracy"] > 0.8
    weights = victim.state_dict()
    changed = {n for n, t in purified.state_dict().items() if not torch.equal(t, weights[n])}
    assert changed == {f"{reader}.weight"}
    # the next step is too much
    zero(victim, entries(victim, reader, None, first(order, count + 1)))
    assert (
        count + 1 == len(order) or fp.engine.accuracy(victim, held) <= 0.9 * fp.details["accuracy"]
    )


def test_tuning_leaves_pruned_channels_without_a_say():
    model = made(Tiny)
    fp = defense(epochs=3, lr=0.1)
    aux = answered(model)
    before = deepcopy(model.state_dict())
    purified = fp.purify(model, aux)
    off = (purified.head.weight == 0).all(0)
    assert off.sum() == fp.details["pruned"] > 0
    assert (purified.head.weight[:, ~off] != before["head.weight"][:, ~off]).all()
    assert not torch.equal(purified.body[0].weight, before["body.0.weight"])
    features = torch.rand(5, 8)
    moved = features + off * torch.randn(5, 8)
    assert torch.equal(purified.head(features), purified.head(moved))
    assert not any(module.training for module in purified.modules())


def maps(model, images):
    """What the stage makes of `images`."""
    return model.layer(model.norm(model.stem(images)).relu())


def test_a_stage_is_pruned_whole_and_stays_so(monkeypatch):
    model = made(Residual)
    assert last_stage(model, SPEC.shape) == "layer"
    aux = answered(model)
    victim = deepcopy(model)
    fp = defense(where="stage", lr=0.1)
    monkeypatch.setattr(fp, "choose", lambda *_: 4)
    fp.check_model(model)
    purified = fp.purify(model, aux)
    off = (purified.head.weight == 0).all(0)
    assert off.sum() == fp.details["pruned"] == 4
    assert (maps(purified, torch.rand(4, 3, 8, 8))[:, off] == 0).all()
    for block in purified.layer:
        assert (block.conv2.weight[off] == 0).all()
        assert (block.short.bias[off] == 0).all()
        assert (block.bn2.bias[off] == 0).all()
        assert (block.conv1.weight != 0).all()  # narrower
    as_map, as_stage = deepcopy(victim), deepcopy(victim)
    zero(as_map, entries(victim, "head", None, off))
    zero(as_stage, entries(victim, "head", "layer", off))
    assert not torch.allclose(
        as_map(torch.ones(2, 3, 8, 8)), as_stage(torch.ones(2, 3, 8, 8))
    )  # the first block's channels are read by the second one


def test_tuning_the_stage_alone_leaves_earlier_weights():
    model = made(Residual)
    aux = answered(model)
    before = deepcopy(model.state_dict())
    purified = defense(tuned="stage", lr=0.1).purify(model, aux).state_dict()
    same = {name for name in before if torch.equal(before[name], purified[name])}
    assert {"stem.weight", "stem.bias", "norm.weight", "norm.bias"} <= same
    assert not same & {"norm.running_mean", "layer.0.conv1.weight", "head.bias"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_tuning_follows_its_recipe():
    model = made(Tiny)
    aux = answered(model)
    heads = {}
    for name, changes in {
        "plain": {}, "lr": {"lr": 0.02}, "momentum": {"momentum": 0.5}, "t_max": {"t_max": 100},
        "decay": {"weight_decay": 0.1}, "batch": {"batch_size": 40}, "plateau": {"patience": 0},
    }.items():  # fmt: skip
        heads[name] = defense(**changes).purify(deepcopy(model), aux).head.weight
    assert all(not torch.equal(heads["plain"], heads[name]) for name in heads if name != "plain")


def test_what_has_no_such_stage_is_refused():
    for key, allowed in (("where", "map"), ("tuned", "all")):
        with pytest.raises(ConfigError, match=f"defense.{key}=stage.*allowed: {allowed}"):
            defense(**{key: "stage"}).check_model(made(Tiny))
    defense().check_model(made(Tiny))


class OneSize(nn.Module):
    """Takes images of 8 pixels only."""

    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 4, 4, 4), nn.Linear(16, 2)

    def forward(self, images):
        return self.head(self.patches(images).flatten(1))


class Grouped(Pooled):
    """The map is read channel by channel."""

    def __init__(self):
        super().__init__()
        self.reader = nn.Conv2d(8, 16, 2, groups=8)


@pytest.mark.parametrize("kind", [OneSize, Grouped, lambda: nn.Sequential(nn.Conv2d(3, 2, 3))])
def test_what_has_no_last_map_is_refused(kind):
    with pytest.raises(ConfigError, match="last feature map"):
        defense().check_model(kind())


@pytest.mark.parametrize("bad", [{"step": 0}, {"acc_ratio": 1.1}, {"where": "head"}, {"lr": 0}])
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        defense(**bad)


def test_three_images_are_too_few():
    with pytest.raises(ConfigError, match=r"3 image\(s\), but defense=fp"):
        defense().check_size(3)
