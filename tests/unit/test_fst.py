from copy import deepcopy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import nn

from backdoor_lab.datasets import DataSpec
from backdoor_lab.defenses.fst import FST, linear_layers, project
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import watched
from backdoor_lab.training import Engine
from tests.conftest import names
from tests.tiny import SPEC, tiny_aux

ZOO = names("model")


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(40)


def defense(engine, **changes):
    options = {
        "alpha": 0.2, "fresh": "all", "rescale": False, "layers": "all", "augment": True,
        "epochs": 2, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0, "batch_size": 8,
        "t_max": None,
    }  # fmt: skip
    fst = FST(**{**options, **changes})
    fst.attach(engine, SPEC, 3)
    return fst


def cosine(first, second):
    return float(F.cosine_similarity(first.flatten(), second.flatten(), dim=0))


def watch_steps(monkeypatch, look):
    """Calls `look(fst, head)` after each step of a training."""
    original = FST.on_train_batch_end

    def noted(self, *args):
        original(self, *args)
        look(self, self.model.head)

    monkeypatch.setattr(FST, "on_train_batch_end", noted)


@pytest.mark.parametrize("name", ZOO)
def test_the_head_is_found_in_every_model_of_the_zoo(config, engine, name):
    spec = DataSpec("x", tuple("abcdefg"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3, 4, False)
    cfg = config(f"model={name}")
    with torch.device("meta"):
        model = instantiate(cfg.model, _convert_="all").build(spec, 0).eval()
    fst = defense(engine)
    fst.attach(engine, spec, 3)
    fst.check_model(model)
    outputs = {}
    with watched(model, lambda n, m, i, out: outputs.update({m: out}), (nn.Linear,)):
        logits = model(torch.rand(2, 3, 32, 32, device="meta"))
    head = linear_layers(model)[-1]
    assert outputs[head] is logits
    assert head.weight.shape[0] == 7
    assert model.head is head


def test_the_norm_is_held_after_each_step(engine, tiny, aux, monkeypatch):
    norms, wanted = [], tiny.head.weight.norm().item()
    watch_steps(monkeypatch, lambda fst, head: norms.append(head.weight.norm().item()))
    defense(engine, alpha=1.0, weight_decay=0.1).purify(tiny, aux)
    assert len(norms) == 10
    assert norms == pytest.approx([wanted] * 10, rel=1e-5)


def test_without_cross_entropy_the_head_turns_around(engine, tiny, aux, monkeypatch):
    old, turned = tiny.head.weight.detach().clone(), []
    monkeypatch.setattr(F, "cross_entropy", lambda logits, labels: 0 * logits.sum())
    watch_steps(monkeypatch, lambda fst, head: turned.append(cosine(head.weight, old)))
    fst = defense(engine, alpha=1.0, rescale=True, epochs=12, momentum=0.0, lr=0.1, t_max=1000)
    purified = fst.purify(tiny, aux)
    assert len(turned) == 60
    assert all(later < earlier for earlier, later in pairwise(turned))
    assert turned[-1] < -0.999
    assert fst.details["cosine"] == pytest.approx(cosine(purified.head.weight, old), abs=1e-4)


def test_without_shift_and_fresh_head_it_is_fine_tuning_with_a_projection(engine, tiny, aux):
    data = aux.data.images.float() / 255
    plain = deepcopy(tiny).train()
    norm = float(plain.head.weight.norm())
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        loss = F.cross_entropy(plain(data), aux.data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            plain.head.weight *= norm / plain.head.weight.norm()
    fst = defense(
        engine, alpha=0.0, fresh="none", augment=False, epochs=3, batch_size=40, t_max=10**6
    )
    purified = fst.purify(tiny, aux)
    for mine, theirs in zip(purified.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_step_descends_by_both_terms_then_projects(engine, tiny, aux):
    """The update by hand: gradients of CE + alpha <W, W0>, SGD with decay, then the norm."""
    alpha, lr, decay = 0.7, 0.05, 0.01
    fst = defense(
        engine, alpha=alpha, fresh="none", augment=False, epochs=1, batch_size=40, lr=lr,
        weight_decay=decay, t_max=10**6,
    )  # fmt: skip
    old = tiny.head.weight.detach().clone()
    copy = deepcopy(tiny).train()
    loss = F.cross_entropy(copy(aux.data.images.float() / 255), aux.data.labels)
    gradients = torch.autograd.grad(loss, list(copy.parameters()))
    expected = {}
    for (name, weight), gradient in zip(copy.named_parameters(), gradients, strict=True):
        shift = alpha * old if name == "head.weight" else 0
        expected[name] = weight.detach() - lr * (gradient + shift + decay * weight.detach())
    expected["head.weight"] *= old.norm() / expected["head.weight"].norm()
    purified = fst.purify(tiny, aux)
    for name, weight in purified.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fresh", ["all", "weight", "none"])
def test_what_is_fresh_is_uniform_in_its_bound(engine, fresh):
    torch.manual_seed(0)
    head = nn.Linear(400, 300)
    nn.init.constant_(head.weight, 7.0)
    nn.init.constant_(head.bias, 7.0)
    defense(engine, fresh=fresh).renew(head)
    weight, bias = head.weight.detach(), head.bias.detach()
    for part, kept in ((weight, fresh == "none"), (bias, fresh != "all")):
        assert bool((part == 7).all()) == kept
        if not kept:
            assert part.abs().max() <= 0.05
            assert part.std() == pytest.approx(0.05 / 3**0.5, rel=0.1)
            assert abs(float(part.mean())) < 0.01


def test_a_fresh_weight_gets_the_old_norm_at_once_where_it_shall(engine):
    for rescale in (False, True):
        torch.manual_seed(0)
        head = nn.Linear(40, 30)
        nn.init.normal_(head.weight)
        fst = defense(engine, fresh="weight", rescale=rescale)
        fst.old = head.weight.detach().clone()
        fst.renew(head)
        assert torch.isclose(head.weight.norm(), fst.old.norm(), rtol=1e-5) == rescale
        assert abs(cosine(head.weight, fst.old)) < 0.1


def test_a_head_without_bias(engine):
    fst = defense(engine)
    head = nn.Linear(4, 3, bias=False)
    before = head.weight.detach().clone()
    fst.renew(head)
    assert not torch.equal(head.weight, before)


@pytest.mark.parametrize("layers", ["all", "features", "head"])
def test_layers_that_are_not_tuned_stay(engine, tiny, aux, layers):
    before = deepcopy(tiny.state_dict())
    fst = defense(engine, layers=layers, fresh="none")
    purified = fst.purify(tiny, aux)
    moved = {n for n, t in purified.named_parameters() if not torch.allclose(t, before[n])}
    features = {
        n for n in before if n.startswith("body.") and "running" not in n and "num" not in n
    }
    head = {"head.weight", "head.bias"}
    tuned = {"all": features | head, "features": features, "head": head}[layers]
    assert moved <= tuned
    assert bool(moved & features) == (layers != "head")
    assert bool(moved & head) == (layers != "features")
    assert not torch.equal(purified.body[1].running_mean, before["body.1.running_mean"])
    assert all(parameter.requires_grad for parameter in purified.parameters())


def test_projection_keeps_the_direction():
    weight, old = torch.randn(3, 5), torch.randn(3, 5)
    before = weight.clone()
    project(weight, old)
    assert cosine(weight, before) == pytest.approx(1, abs=1e-6)
    assert float(weight.norm()) == pytest.approx(float(old.norm()), rel=1e-6)


def test_options_matter(engine, tiny, aux):
    changes = (
        {}, {"alpha": 1.0}, {"fresh": "weight"}, {"fresh": "none"}, {"rescale": True},
        {"layers": "features"}, {"layers": "head"}, {"augment": False}, {"epochs": 1},
        {"lr": 0.01}, {"momentum": 0.0}, {"weight_decay": 0.1}, {"batch_size": 20}, {"t_max": 9},
    )  # fmt: skip
    found = [
        defense(engine, **change).purify(deepcopy(tiny), aux).state_dict() for change in changes
    ]
    for number, one in enumerate(found):
        for other in found[:number]:
            assert any(not torch.equal(one[key], other[key]) for key in one), changes[number]


def test_a_diverging_shift_is_told(tiny, aux):
    engine = Engine(accelerator="cpu", precision="32-true", progress=False)
    with pytest.raises(ConfigError, match="not finite"):
        defense(engine, alpha=1e38, lr=1e30).purify(tiny, aux)


@pytest.mark.parametrize("model", [nn.Conv2d(3, 2, 3), nn.Linear(4, 5)])
def test_a_model_without_a_head_of_its_classes_is_refused(engine, model):
    with pytest.raises(ConfigError, match=r"2 outputs, but defense=fst") as refusal:
        defense(engine).check_model(model)
    assert len(str(refusal.value).splitlines()) == 1


def test_the_shift_weighs_less_where_there_are_many_classes(config):
    for dataset, alpha in (
        ("cifar10", 0.2), ("gtsrb", 0.1), ("cifar100", 0.001), ("tiny_imagenet", 0.001),
    ):  # fmt: skip
        assert config(f"dataset={dataset}", "defense=fst").defense.alpha == alpha


@pytest.mark.parametrize("changes", [{"alpha": -0.1}, {"fresh": "bias"}, {"layers": "stem"}])
def test_values_out_of_range_are_refused(engine, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        defense(engine, **changes)
