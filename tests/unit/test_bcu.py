from copy import deepcopy
from math import sqrt

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import DataSpec, ImageSet
from backdoor_lab.defenses.bcu import (
    BCU,
    divergence,
    overall,
    reinitialised,
    temperature,
)
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import Classifier
from backdoor_lab.models.stages import stages
from backdoor_lab.training import Engine
from tests.unit.test_models import from_zoo, on_meta
from tests.unit.test_models import spec as zoo_spec

SPEC = DataSpec("tiny", ("a", "b"), (3, 16, 16), (0.5,) * 3, (0.5,) * 3, 1, True)
CIFAR = DataSpec("cifar", tuple("0123456789"), (3, 32, 32), (0.5,) * 3, (0.5,) * 3, 4, True)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(32, 2)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))

    def fresh(self, seed=0):
        torch.manual_seed(seed)
        return Tiny()


def cifar_resnet18():
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def defense(spec=SPEC, **changes):
    options = {
        "stem": 0.01, "shallow": 0.01, "deep": 0.27, "head": 0.1, "strategy": "increasing",
        "target_overall": None, "only": None, "temperature": None, "labels": "soft", "epochs": 2,
        "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 8, "t_max": None,
    }  # fmt: skip
    bcu = BCU(**{**options, **changes})
    bcu.attach(Engine(accelerator="cpu", precision="32-true", progress=False), spec, 5)
    return bcu


@pytest.fixture
def images():
    return torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)


def share(ratios, model):
    sizes = [model.get_parameter(name).numel() for name in ratios]
    return overall(list(ratios.values()), sizes)


def test_resnet18_gets_the_paper_s_ratios():
    model = cifar_resnet18()
    ratios = defense(CIFAR).ratios(model)
    expected = {"conv1.weight": 0.01, "fc.weight": 0.1, "fc.bias": 0.1}
    for stage, ratio in zip("1234", (0.01, 0.03, 0.09, 0.27), strict=True):
        expected[f"layer{stage}.0.conv1.weight"] = ratio
        expected[f"layer{stage}.1.conv2.weight"] = ratio
    expected["layer4.0.downsample.0.weight"] = 0.27
    assert {n: ratios[n] for n in expected} == pytest.approx(expected)
    assert not any("bn" in n or "downsample.1" in n for n in ratios)
    assert sum(model.get_parameter(n).numel() for n in ratios) == 11_164_362
    assert share(ratios, model) == pytest.approx(0.2214, abs=0.001)
    uniform = defense(CIFAR, strategy="uniform").ratios(model)
    assert len(set(uniform.values())) == 1
    assert share(uniform, model) == pytest.approx(share(ratios, model))
    falling = defense(CIFAR, strategy="decreasing")
    assert share(falling.ratios(model), model) == pytest.approx(share(ratios, model), abs=1e-6)
    assert falling.details["ratios"][1:5] == pytest.approx([1, 1, 0.368, 0.123], abs=0.001)


def test_groups_of_other_architectures():
    with torch.device("meta"):  # shapes are enough
        check_groups()


def check_groups():
    vgg = stages(torchvision.models.vgg19_bn(num_classes=10), (3, 32, 32))
    assert [len(group) for group in vgg] == [1, 3, 4, 4, 4, 3]
    mobile = stages(torchvision.models.mobilenet_v2(num_classes=10), (3, 64, 64))
    assert len(mobile) == 6
    assert mobile[-1] == ["classifier.1"]
    assert "features.18.0" in mobile[-2]
    bottleneck = stages(torchvision.models.resnet50(num_classes=10), (3, 64, 64))
    assert "layer2.0.conv1" in bottleneck[2]
    large = stages(torchvision.models.mobilenet_v3_large(num_classes=10), (3, 64, 64))
    assert all("fc" not in name for name in large[-1])
    assert len(large) == 6


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("vgg19", ["net.pre_logits.fc1", "net.pre_logits.fc2", "net.head.fc"]),
        ("vgg19_bn", ["net.pre_logits.fc1", "net.pre_logits.fc2", "net.head.fc"]),
        ("mobilenetv3_large", ["net.conv_head", "net.classifier"]),
        ("mobilenetv2", ["net.classifier"]),
        ("preact_resnet18", ["net.linear"]),
    ],
)
@pytest.mark.parametrize("size", [32, 64])
def test_convolutions_that_read_the_pooled_map_belong_to_the_head(name, head, size):
    model = on_meta(lambda: from_zoo(name).build(zoo_spec(size=size), seed=0))
    groups = stages(model, (3, size, size))
    assert groups[-1] == head
    if "vgg" in name:
        assert [len(group) for group in groups] == [1, 3, 4, 4, 4, 3]


def test_a_whole_classifier(images):
    model = Classifier("preact_resnet18", SPEC, options={"width": 16})
    bcu = defense(epochs=1)
    ratios = bcu.ratios(model)
    assert ratios["net.conv1.weight"] == ratios["net.layer1.1.conv2.weight"] == 0.01
    assert ratios["net.layer3.0.shortcut.weight"] == pytest.approx(0.09)
    assert ratios["net.layer4.1.conv2.weight"] == pytest.approx(0.27)
    assert ratios["net.linear.bias"] == 0.1
    aux = AuxiliarySet("seen", ImageSet.of(images, torch.zeros(16)), False)
    keys = model.state_dict().keys()
    assert bcu.purify(model, aux).state_dict().keys() == keys


def test_unreachable_share_is_refused():
    with pytest.raises(ConfigError, match="target_overall"):
        defense(head=0.0, target_overall=1.0).ratios(Tiny())


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("resnet18", {"channels": [8, 16, 32, 64]}),
        ("vgg11_bn", {"mlp_ratio": 1 / 64}),
        ("densenet121", {"growth_rate": 8, "block_config": (2, 2, 2, 2)}),
        ("mobilenetv3_small_050", {}),
    ],
)
def test_reinitialisation_is_element_wise_and_leaves_batch_norm(architecture, options):
    torch.manual_seed(0)
    model, twin = (timm.create_model(architecture, num_classes=10, **options) for _ in range(2))
    fresh = twin.state_dict()
    teacher = {name: value + 1 for name, value in model.state_dict().items()}  # nothing is as drawn
    norms = {
        f"{path}.{entry}"
        for path, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for entry in module.state_dict()
    }
    ratios = defense(CIFAR).ratios(model)
    assert ratios.keys() | norms == teacher.keys()
    mixed = reinitialised(teacher, fresh, ratios, 0)
    for name, ratio in ratios.items():
        kept = mixed[name] == teacher[name]
        assert (kept | (mixed[name] == fresh[name])).all()
        n = kept.numel()
        assert abs((~kept).sum().item() - n * ratio) <= 4 * sqrt(n * ratio * (1 - ratio)) + 1
    every = reinitialised(teacher, fresh, dict.fromkeys(ratios, 1.0), 0)
    assert all(torch.equal(every[n], fresh[n]) for n in ratios)
    assert all(torch.equal(state[n], teacher[n]) for n in norms for state in (mixed, every))
    none = reinitialised(teacher, fresh, dict.fromkeys(ratios, 0.0), 0)
    assert all(torch.equal(none[n], teacher[n]) for n in teacher)


def test_temperature_and_divergence():
    assert temperature(0, 100) == pytest.approx(1.03)
    assert temperature(99, 100) == pytest.approx(4.0)
    logits, others = torch.randn(5, 10), torch.randn(5, 10)
    assert divergence(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-6)
    p, q = (others / 2).softmax(1), (logits / 2).softmax(1)
    expected = (p * (p / q).log()).sum(1).mean()
    assert divergence(logits, others, 2.0).item() == pytest.approx(expected.item(), rel=1e-4)


def between(monkeypatch, epoch=0, **changes):
    """BCU in the middle of `epoch`, and a batch labelled against the teacher."""
    torch.manual_seed(0)
    bcu, images = defense(**changes), torch.rand(12, 3, 16, 16)
    bcu.model, bcu.teacher = Tiny().eval(), Tiny().eval()
    with torch.no_grad():
        for net in (bcu.model, bcu.teacher):  # answers differ from image to image
            net.head.weight.mul_(100)
            net.head.bias.sub_(net(images).mean(0))
        bcu.model.head.bias[0] += 2
    monkeypatch.setattr(BCU, "current_epoch", epoch)
    return bcu, (images, 1 - bcu.teacher(images).argmax(1))


@pytest.mark.parametrize(
    ("changes", "epoch", "heat"),
    [
        ({"temperature": 2.0, "epochs": 4}, 1, 2.0),
        ({"epochs": 4}, 0, 1.75),
        ({"epochs": 4}, 3, 4.0),
    ],
)
def test_the_student_is_drawn_to_the_teacher_at_a_temperature(monkeypatch, changes, epoch, heat):
    bcu, (images, labels) = between(monkeypatch, epoch, **changes)
    wanted, given = ((net(images) / heat).softmax(1) for net in (bcu.teacher, bcu.model))
    expected = (wanted * (wanted / given).log()).sum(1).mean()
    torch.testing.assert_close(bcu.training_step((images, labels), 0), expected)


def test_hard_labels_are_the_teacher_s_choice(monkeypatch):
    bcu, (images, labels) = between(monkeypatch, labels="hard")
    choice = bcu.teacher(images).argmax(1)
    assert 0 < choice.sum() < len(choice)
    assert not torch.equal(choice, bcu.model(images).argmax(1))
    expected = F.cross_entropy(bcu.model(images), choice)
    torch.testing.assert_close(bcu.training_step((images, labels), 0), expected)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_labels_are_never_read(images, kind):
    torch.manual_seed(0)
    model = Tiny()
    results = []
    for labels in (torch.arange(16) % 2, torch.zeros(16, dtype=torch.int64)):
        aux = AuxiliarySet("seen", ImageSet.of(images, labels), False)
        results.append(defense(labels=kind).purify(deepcopy(model), aux).state_dict())
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])
    assert not torch.equal(results[0]["head.weight"], model.head.weight)
    assert results[0].keys() == model.state_dict().keys()


def test_teacher_stays_as_it_is_and_is_gone_afterwards(images, monkeypatch):
    model = Tiny().eval()
    before = deepcopy(model.state_dict())
    step = BCU.training_step

    def checked(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        assert self.model.training
        assert not self.teacher.training
        trained = {id(w) for group in self.optimizers().param_groups for w in group["params"]}
        assert trained == {id(weight) for weight in self.model.parameters()}
        assert all(torch.equal(t, before[n]) for n, t in self.teacher.state_dict().items())
        return loss

    monkeypatch.setattr(BCU, "training_step", checked)
    bcu = defense()
    purified = bcu.purify(model, AuxiliarySet("seen", ImageSet.of(images, torch.zeros(16)), False))
    assert purified.body[1].num_batches_tracked == 4  # trained with batch statistics
    assert not bcu.state_dict()


def test_without_epochs_the_student_is_the_teacher_but_for_what_is_fresh(images):
    model = Tiny().eval()
    aux = AuxiliarySet("seen", ImageSet.of(images, torch.zeros(16)), False)
    bcu = defense(epochs=0, deep=0.5)
    student = bcu.purify(deepcopy(model), aux)
    mixed = reinitialised(
        model.state_dict(), model.fresh(5).state_dict(), bcu.ratios(model), bcu.seed
    )
    assert all(torch.equal(t, mixed[n]) for n, t in student.state_dict().items())
    assert not student.training
    assert not torch.equal(student.body[7].weight, model.body[7].weight)


def test_one_stage_alone_is_reinitialised_at_its_own_share(images):
    model = cifar_resnet18()
    every = defense(CIFAR, strategy="uniform").ratios(model)
    alone = defense(CIFAR, strategy="uniform", only=[3]).ratios(model)
    changed = {name for name, share in alone.items() if share}
    assert changed == {name for name in every if name.startswith("layer3.")}
    assert all(alone[name] == every[name] for name in changed)
    aux = AuxiliarySet("seen", ImageSet.of(images, torch.zeros(16)), False)
    tiny = Tiny()
    student = defense(epochs=0, head=0.9, only=[3]).purify(deepcopy(tiny), aux).state_dict()
    found = {n for n, t in student.items() if not torch.equal(t, tiny.state_dict()[n])}
    assert found <= {"head.weight", "head.bias"}
    assert "head.weight" in found


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"only": [4]}, r"only=\[4\].*0 \(stem\) to 3 \(head\)"),
        ({"target_overall": 1.0}, "target_overall"),
    ],
)
def test_stages_and_shares_out_of_range_are_refused_before_anything_trains(changes, key):
    with pytest.raises(ConfigError, match=rf"defense\.{key}"):
        defense(head=0.0, **changes).check_model(Tiny())
