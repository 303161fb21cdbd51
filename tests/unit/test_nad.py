"""NAD: attention against loops, where it is taken in every model, one step by hand, refusals."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pydantic import ValidationError
from torch import nn
from torch.func import functional_call

from backdoor_lab.config import CONF
from backdoor_lab.datasets import DataSpec
from backdoor_lab.defenses import nad as module
from backdoor_lab.defenses.ft import FT
from backdoor_lab.defenses.nad import NAD, attention
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import frozen_copy, outputs
from backdoor_lab.models.stages import outlets
from backdoor_lab.run.parts import Parts
from tests.conftest import names
from tests.tiny import SPEC, Tiny, tiny_aux

OPTIONS = {
    "teacher_epochs": 1, "epochs": 1, "lr": 0.05, "schedule": "constant", "t_max": None,
    "momentum": 0.9, "nesterov": False, "weight_decay": 0.01, "batch_size": 16,
    "betas": [30.0, 50.0], "power": 2.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(16)


@pytest.fixture
def defense(engine):
    """NAD for Tiny, whose images stay as they are; its maps have 6x6 and 4x4 pixels."""

    def make(kind=NAD, options=OPTIONS, **changes):
        made = kind(**options | changes)
        made.attach(engine, SPEC, seed=0)
        made.crop_flip = None
        return made

    return make


@pytest.fixture
def tuned(defense, aux):
    """The state of Tiny after a defense with `changes`."""

    def tune(*kind, **changes):
        torch.manual_seed(0)
        model = Tiny()
        assert defense(*kind, **changes).purify(model, aux) is model
        assert not any(part.training or part._forward_hooks for part in model.modules())
        return {name: value.contiguous() for name, value in model.state_dict().items()}

    return tune


def looped(maps, power):
    """Attention of maps (N, C, H, W), an entry at a time."""
    found = []
    for image in maps:
        summed = sum(channel.abs() ** power for channel in image)
        found.append(summed / ((summed**2).sum() ** 0.5 + 1e-6))
    return torch.stack(found)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_has_unit_norm_and_knows_no_scale(power):
    maps, others = torch.randn(2, 3, 5, 4, 6).unbind()
    found = attention(maps, power)
    torch.testing.assert_close(found, looped(maps, power))
    torch.testing.assert_close(found.norm(dim=(1, 2)), torch.ones(3))
    torch.testing.assert_close(attention(-7 * maps, power), found, rtol=1e-4, atol=1e-6)
    assert F.mse_loss(found, attention(others, power)) <= 2 / 24
    assert not attention(torch.zeros(1, 5, 4, 6), power).any()


def test_attention_is_taken_in_single_precision():
    maps = torch.full((1, 4, 2, 2), 300.0, dtype=torch.float16)  # whose squares fp16 cannot hold
    assert attention(maps, 2).tolist() == [[[0.5, 0.5], [0.5, 0.5]]]


def test_a_map_of_one_pixel_has_nothing_to_tell():
    maps = torch.randn(4, 8, 1, 1, requires_grad=True)
    found = attention(maps, 2)
    torch.testing.assert_close(found, torch.ones(4, 1, 1), rtol=0, atol=1e-5)
    F.mse_loss(found, attention(torch.randn(4, 8, 1, 1), 2)).backward()
    assert maps.grad.abs().max() < 1e-10


PLACES = {  # at 32 and at 64 pixels
    "densenet161": (
        ["features.denseblock1", "features.denseblock2", "features.denseblock3"],
        ["features.denseblock2", "features.denseblock3", "features.denseblock4"],
    ),
    "mobilenetv2": (
        ["blocks.1.1", "blocks.2.2", "blocks.4.2"],
        ["blocks.2.2", "blocks.4.2", "blocks.6.0"],
    ),
    "mobilenetv3_large": (
        ["blocks.1.1", "blocks.2.2", "blocks.4.1"],
        ["blocks.2.2", "blocks.4.1", "blocks.6.0"],
    ),
    "preact_resnet18": (["layer2.1", "layer3.1", "layer4.1"],) * 2,
    "preact_resnet18_narrow": (["layer2.1", "layer3.1", "layer4.1"],) * 2,
    "resnet18": (["layer2.1", "layer3.1", "layer4.1"],) * 2,
    "resnet34": (["layer2.3", "layer3.5", "layer4.2"],) * 2,
    "vgg19": (["features.17", "features.26", "features.35"],) * 2,  # ReLUs before the poolings
    "vgg19_bn": (["features.25", "features.38", "features.51"],) * 2,
}
SIDES = {"resnet": (16, 32), "vgg": (8, 16), "net": (8, 8)}  # of the first of the three


def spec_of(size):
    return DataSpec("x", tuple("0123456789"), (3, size, size), (0.5,) * 3, (0.25,) * 3, 2, False)


def built(name, size):
    node = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))
    return instantiate(node, _convert_="all").build(spec_of(size), seed=0)


@pytest.mark.parametrize("name", names("model"))
def test_every_model_is_aligned_where_its_last_resolutions_are_left(defense, name):
    firsts = next(sides for part, sides in SIDES.items() if part in name)
    nad = defense(betas=[500, 1000, 1000])
    with torch.device("meta"):  # shapes are enough
        model = built(name, 32)
        for size, expected, side in zip((32, 64), PLACES[name], firsts, strict=True):
            nad.spec = spec_of(size)
            assert nad.places(model) == [f"net.{place}" for place in expected]
            sides = [f"{n}x{n}" for n in (side, side // 2, side // 4)]
            assert list(nad.details["layers"].values()) == sides


@pytest.mark.parametrize("name", ["preact_resnet18_narrow", "mobilenetv3_large"])
def test_every_map_teaches_the_first_layer(name):
    """None is constant, and none is changed in place by what follows."""
    torch.manual_seed(0)
    student, teacher = built(name, 32).train(), frozen_copy(built(name, 32)).train()
    with torch.no_grad():
        for weight in teacher.parameters():
            weight += 0.05 * torch.randn_like(weight)
    places = [n for n, size in outlets(student, (3, 32, 32)).items() if min(size) > 1][-3:]
    images = torch.rand(4, 3, 32, 32)
    stem = next(part for part in student.modules() if isinstance(part, nn.Conv2d)).weight

    def look(maps):
        return attention(maps, 2)

    with outputs(student, places, look) as given, outputs(teacher, places, look) as wanted:
        student(images)
        teacher(images)
    for place in places:
        loss = F.mse_loss(given[place], wanted[place].detach())
        (gradient,) = torch.autograd.grad(loss, stem, retain_graph=True)
        assert loss > 1e-6
        assert gradient.norm() > 1e-6, place


def test_a_teacher_that_is_the_student_asks_for_nothing(defense):
    torch.manual_seed(0)
    nad, model = defense(), Tiny().eval()
    nad.model, nad.teacher = model, frozen_copy(model)
    nad.layers = nad.places(model)
    batch = torch.rand(6, 3, 8, 8), torch.arange(6) % 2

    def look(maps):
        return attention(maps, 2)

    with (
        outputs(model, nad.layers, look) as nad.given,
        outputs(nad.teacher, nad.layers, look) as nad.wanted,
    ):
        loss = nad.training_step(batch, 0)
        torch.testing.assert_close(loss, F.cross_entropy(model(batch[0]), batch[1]))
        with torch.no_grad():
            nad.teacher.body[0].weight.mul_(torch.rand(8, 1, 1, 1))
        assert nad.training_step(batch, 0) > loss


def descended(model, loss):
    """Weights after a first step of SGD, whose momentum is the gradient."""
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            weight -= 0.05 * (gradient + 0.01 * weight)


def test_one_step_of_teacher_and_student_by_hand(tuned, aux):
    images, labels = aux.data.images.float() / 255, aux.data.labels
    torch.manual_seed(0)
    teacher, student = Tiny().train(), Tiny()
    student.load_state_dict(teacher.state_dict())
    descended(teacher, F.cross_entropy(teacher(images), labels))
    teacher.eval()

    def maps(model):
        first = model.body[:3](images)
        return first, model.body[3:](first)

    loss, given = 0, maps(student.train())
    with torch.no_grad():
        wanted = maps(teacher)
    for beta, ours, theirs in zip((30, 50), given, wanted, strict=True):
        loss = loss + beta * (looped(ours, 2) - looped(theirs, 2)).square().mean()
    loss = loss + F.cross_entropy(student.head(given[1].mean((2, 3))), labels)
    descended(student, loss)
    torch.testing.assert_close(tuned(), student.state_dict(), rtol=1e-4, atol=1e-5)


def test_the_teacher_stays_and_batch_norm_sees_a_batch_once(defense, aux, monkeypatch):
    nad, model, seen = defense(epochs=3, batch_size=8), Tiny(), []

    def note(self):
        seen.append(deepcopy(self.teacher.state_dict()))
        assert not any(part.training for part in self.teacher.modules())
        assert all(part.training for part in self.model.modules())
        held = {id(weight) for weight in self.teacher.parameters()}
        groups = self.optimizers().param_groups
        assert not any(id(weight) in held for group in groups for weight in group["params"])

    monkeypatch.setattr(NAD, "on_train_start", note)
    monkeypatch.setattr(NAD, "on_train_end", note)
    before = deepcopy(model.state_dict())
    nad.purify(model, aux)
    assert all(torch.equal(value, seen[1][name]) for name, value in seen[0].items())
    assert not torch.equal(seen[0]["head.weight"], before["head.weight"])
    assert model.body[1].num_batches_tracked == 3 * 2
    assert seen[0]["body.1.num_batches_tracked"] == 1 * 2
    assert not hasattr(nad, "teacher")
    assert nad.details == {"layers": {"body.2": "6x6", "body.5": "4x4"}}


def test_without_weights_it_is_fine_tuning(tuned):
    shared = {k: OPTIONS[k] for k in ("lr", "momentum", "weight_decay", "t_max")}
    plain = tuned(FT, shared | {"epochs": 3, "batch_size": 8})
    found = tuned(betas=[0, 0], epochs=3, batch_size=8, schedule="cosine")
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize(
    "change",
    [
        {"teacher_epochs": 2}, {"epochs": 2}, {"lr": 0.01}, {"schedule": "steps"},
        {"schedule": "cosine"}, {"schedule": "cosine", "t_max": 2}, {"nesterov": True},
        {"momentum": 0}, {"weight_decay": 0}, {"batch_size": 8}, {"betas": [50.0]},
        {"betas": [50.0, 30.0]}, {"power": 1},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_changes_the_result(tuned, change):
    long = {"teacher_epochs": 4, "epochs": 4, "betas": [3000.0, 5000.0]}
    usual = long | ({"schedule": "cosine"} if "t_max" in change else {})
    assert not torch.equal(tuned(**usual)["head.weight"], tuned(**usual | change)["head.weight"])


def test_the_rate_is_a_tenth_after_two_epochs_a_thousandth_after_twenty(defense, aux, monkeypatch):
    seen = []

    def note(self, batch, batch_idx):
        seen.append(round(self.optimizers().param_groups[0]["lr"], 6))

    monkeypatch.setattr(NAD, "on_train_batch_start", note)
    defense(epochs=22, schedule="steps").purify(Tiny(), aux)
    assert seen == [0.05] * 2 + [0.005] * 18 + [0.00005] * 2


def test_too_many_resolutions_are_refused_before_anything_trains(defense):
    with pytest.raises(ConfigError, match=r"betas=\[1.*\] align 3 resolutions.* 2 of at least 2x2"):
        defense(betas=[1, 1, 1]).check_model(Tiny())
    with pytest.raises(ConfigError, match=r"0 of at least 2x2"):
        defense().check_model(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))


@pytest.mark.parametrize(
    "change",
    [{"power": 0}, {"betas": [-1]}, {"schedule": "plateau"}, {"teacher_epochs": 0}],
    ids=lambda change: next(iter(change)),
)
def test_bad_values_are_refused(defense, change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        defense(**change)


def test_no_weights_at_all_are_refused_by_the_key_that_is_typed(config):
    with pytest.raises(ConfigError, match=r"^then\.betas=\[\] does not fit: .* at least 1 item"):
        Parts.of(config("defense=clp", "defense@then=nad", "then.betas=[]"))


def test_graphs_that_were_compiled_without_hooks_are_passed_by(tuned, engine, monkeypatch):
    """As `torch.compile` does, which takes the student for the teacher that it has seen before."""

    def compiled(self):
        twin = Tiny()

        def call(images):
            twin.train(self.training)
            return functional_call(twin, self.state_dict(keep_vars=True), images)

        self._compiled_call_impl = call

    expected = tuned()
    monkeypatch.setattr(engine, "compile", True)
    monkeypatch.setattr(Tiny, "compile", compiled)
    torch.testing.assert_close(tuned(), expected)


def test_no_hook_stays_when_a_training_fails(defense, aux, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(module.F, "mse_loss", fail)
    model = Tiny()
    with pytest.raises(ZeroDivisionError):
        defense().purify(model, aux)
    assert not any(part._forward_hooks for part in model.modules())
