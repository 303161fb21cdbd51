from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import batch_norms
from backdoor_lab.defenses._scale_masks import pruned
from backdoor_lab.defenses.anp import ANP
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import ModelFactory
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Engine
from tests.tiny import SPEC, drawn_tiny, tiny_aux


@pytest.fixture
def model():
    return drawn_tiny()


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(40)


def defense(**changes):
    options = {
        "eps": 0.4, "steps": 1, "alpha": 0.2, "lr": 0.2, "momentum": 0.9, "iterations": 7,
        "batch_size": 16, "project": False, "threshold": 0.5, "acc_ratio": 0.1,
    }  # fmt: skip
    anp = ANP(**{**options, **changes})
    engine = Engine(accelerator="cpu", precision="32-true", progress=False)
    anp.attach(engine, SPEC, 3)
    return anp


def searcher(model, **changes):
    """ANP in the middle of its search on a frozen copy of `model`."""
    search = defense(**changes)
    search.model = deepcopy(model).requires_grad_(False)
    search.masks = nn.ParameterList(
        torch.ones_like(norm.weight) for norm in batch_norms(model).values()
    )
    search.generator = generator_for(0, "anp")
    return search


def batch(count=6):
    return torch.rand(count, 3, 8, 8), torch.arange(count) % 2


def test_masks_of_one_and_no_noise_are_the_model(model):
    search = searcher(model)
    images, labels = batch()
    expected = F.cross_entropy(model(images), labels)
    assert torch.equal(search.loss((images, labels), list(search.masks)), expected)


def test_search_stops_exactly_and_leaves_the_victim_alone(model, aux, monkeypatch):
    steps = []
    original = ANP.training_step

    def counted(self, batch, batch_idx):
        steps.append(batch_idx)
        loss = original(self, batch, batch_idx)
        assert all(((mask >= 0) & (mask <= 1)).all() for mask in self.masks)
        assert self.model.training
        assert not any(weight.requires_grad for weight in self.model.parameters())
        return loss

    monkeypatch.setattr(ANP, "training_step", counted)
    before = deepcopy(model.state_dict())
    masks = defense().search(model, aux.data)
    assert len(steps) == 7  # 3 batches an epoch
    assert any((mask < 1).any() for mask in masks.values())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def one_step(model, aux, **changes):
    """The masks after one step, on images as they are."""
    anp = defense(alpha=0.3, lr=0.5, iterations=1, batch_size=len(aux.data), **changes)
    anp.attach(anp.engine, replace(SPEC, padding=0, flip=False), 3)
    return anp.search(model, aux.data)


def entropy(model, data, masks, noise):
    """CE under masks and noise, by hand."""
    scale, shift = zip(
        *((norm.weight * (m + d), norm.bias * (1 + xi))
          for norm, m, (d, xi) in zip(batch_norms(model).values(), masks, noise, strict=True)),
        strict=True,
    )  # fmt: skip
    x = F.batch_norm(model.body[0](data.images.float() / 255), None, None, scale[0], shift[0], True)
    x = F.batch_norm(model.body[3](x.relu()), None, None, scale[1], shift[1], True)
    return F.cross_entropy(model.head(x.relu().mean((2, 3))), data.labels)


def check_step(found, loss, leaves):
    """That the masks `found` are one step of 0.5 down the slope of `loss`."""
    for mask, slope in zip(found.values(), torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(mask, (1 - 0.5 * slope).clamp(0, 1), rtol=1e-4, atol=1e-5)
        assert ((mask > 0) & (mask < 1)).any()


SILENCE = [torch.zeros(2, 8)] * 2


def test_a_step_by_hand(model, aux, monkeypatch):
    """Of both terms."""
    noise = [0.3 * torch.randn(2, 8, generator=generator_for(5, "noise")) for _ in range(2)]
    monkeypatch.setattr(ANP, "ascend", lambda self, batch: noise)
    leaves = [torch.ones(8, requires_grad=True) for _ in noise]
    plain, worst = (entropy(model, aux.data, leaves, one) for one in (SILENCE, noise))
    check_step(one_step(model, aux), 0.3 * plain + 0.7 * worst, leaves)


def test_without_noise_the_loss_is_alpha_times_ce(model, aux, monkeypatch):
    def refuse(self, batch):
        raise AssertionError

    monkeypatch.setattr(ANP, "ascend", refuse)
    leaves = [torch.ones(8, requires_grad=True) for _ in SILENCE]
    plain = entropy(model, aux.data, leaves, SILENCE)
    check_step(one_step(model, aux, eps=0.0), 0.3 * plain, leaves)


def test_pruning_touches_gamma_alone_and_is_nested(model):
    masks = {name: torch.rand(8) for name in ("body.1", "body.4")}
    masks["body.1"][:2] = torch.tensor([0.0, 1.0])
    low, high = pruned(model, masks, 0.0), pruned(model, masks, 0.5)
    assert low.body[1].weight[0] == 0
    assert (low.body[4].weight != 0).all()
    changed = {n for n, t in high.state_dict().items() if not torch.equal(t, model.state_dict()[n])}
    assert changed == {"body.1.weight", "body.4.weight"}
    assert ((high.body[1].weight == 0) == (masks["body.1"] <= 0.5)).all()
    assert ((low.body[1].weight != 0) | (high.body[1].weight == 0)).all()


def test_ascent_ascends_and_projects(model):
    search = searcher(model.double(), eps=1e-4, steps=4)
    batch64 = (batch()[0].double(), batch()[1])
    masks = [mask.detach().double() for mask in search.masks]
    search.masks = nn.ParameterList(masks)
    start = [(torch.rand(2, 8, generator=generator_for(0, "anp")) * 2 - 1) * 1e-4 for _ in masks]
    worst = [part.double() for part in search.ascend(batch64)]
    first = search.loss(batch64, masks, [start[0].double(), torch.zeros(2, 8).double()])
    assert search.loss(batch64, masks, worst) >= first
    free = searcher(model.float(), eps=0.4).ascend(batch())
    assert max(part.abs().max() for part in free) > 0.4
    held = searcher(model, eps=0.4, project=True).ascend(batch())
    assert max(part.abs().max() for part in held) <= 0.4


def test_all_steps_of_an_ascent_are_eps_long_together(model):
    search, given = searcher(model, eps=0.4, steps=2), batch()
    draw = generator_for(0, "anp")
    noise = [0.4 * (torch.rand(2, 8, generator=draw) * 2 - 1) for _ in search.masks]
    for _ in range(2):
        leaves = [part.requires_grad_() for part in noise]
        slopes = torch.autograd.grad(search.loss(given, list(search.masks), leaves), leaves)
        noise = [
            part.detach() + 0.2 * slope.sign() for part, slope in zip(leaves, slopes, strict=True)
        ]
    for found, expected in zip(search.ascend(given), noise, strict=True):
        torch.testing.assert_close(found, expected)


def test_threshold_is_the_largest_that_keeps_held_out_accuracy(model, aux):
    anp = defense(threshold=None)
    masks = {"body.1": torch.ones(8), "body.4": torch.ones(8)}
    assert anp.choose(model, masks, aux.data) == 0.9
    purified = anp.purify(model, aux)
    assert purified.state_dict().keys() == model.state_dict().keys()
    assert anp.details["pruned"] == sum(int((purified.body[n].weight == 0).sum()) for n in (1, 4))


def test_no_mask_has_seen_the_images_that_choose_the_threshold(model, aux, monkeypatch):
    anp, given = defense(threshold=None), {}
    masks = {name: torch.ones(8) for name in batch_norms(model)}
    monkeypatch.setattr(anp, "search", lambda _, data: given.update(search=data) or masks)
    monkeypatch.setattr(anp, "choose", lambda *_: given.update(choose=_[-1]))
    anp.purify(model, aux)
    searched, held = ({one.numpy().tobytes() for one in data.images} for data in given.values())
    assert searched.isdisjoint(held)
    assert len(searched) == len(held) == 20


def test_what_may_be_lost_is_a_share_of_the_victim_s_accuracy(model, aux, monkeypatch):
    found = iter([0.5, 0.42, 0.46])  # of the victim, without masks up to 0.9, up to 0.85
    monkeypatch.setattr(Engine, "accuracy", lambda self, model, data: next(found))
    masks = {name: torch.ones(8) for name in batch_norms(model)}
    assert defense(threshold=None, acc_ratio=0.1).choose(model, masks, aux.data) == 0.85


def test_choosing_needs_held_out_images(model, aux):
    single = AuxiliarySet("seen", aux.data.take(torch.tensor([0, 1])), True)
    with pytest.raises(ConfigError, match="no class has two"):
        defense(threshold=None).purify(model, single)
    defense(threshold=0.2).check_size(2)
    with pytest.raises(ConfigError, match=r"3 image\(s\), but defense=anp"):
        defense(threshold=None).check_size(3)


def set_of(counts):
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    return ImageSet.of(torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), labels)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([1000, 500], [100, 50]),  # a tenth of each
        ([300, 100], [38, 13]),  # 50 in proportion, rounded up
        ([60, 20], [30, 10]),  # half at most
        ([5, 2, 1], [2, 1, 0]),
        ([250] * 10, [25] * 10),
    ],
)
def test_held_out_images_are_a_tenth_fifty_at_least_half_at_most(counts, expected):
    train, held = defense().hold_out(set_of(counts))
    found = held.labels.bincount(minlength=len(counts)).tolist()
    assert found == expected
    rest = train.labels.bincount(minlength=len(counts)).tolist()
    assert [a + b for a, b in zip(found, rest, strict=True)] == counts


@pytest.mark.parametrize("threshold", [0.3, None])
def test_compression_takes_channels_out_by_their_masks(engine, monkeypatch, threshold):
    model = ModelFactory("preact_resnet18", options={"width": 16}).build(SPEC, seed=0).eval()
    draw = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(m.num_features, generator=draw) for n, m in batch_norms(model).items()}
    monkeypatch.setattr(ANP, "search", lambda self, model, data: masks)
    monkeypatch.setattr(ANP, "choose", lambda *_: None)
    anp = defense(threshold=threshold, compression=2.0)
    assert not anp.keeps_architecture
    anp.check_model(model)
    purified = anp.purify(deepcopy(model), tiny_aux(20))
    whole, left = (sum(p.numel() for p in m.parameters()) for m in (model, purified))
    assert 0.98 * whole / 2 < left <= whole / 2
    inner = [name for name in masks if name.endswith("bn2")]
    gone = torch.cat([masks[name] for name in inner]).sort().values
    limit = gone[sum(anp.details["removed"].values()) - 1]
    for name, mask in masks.items():
        norm = purified.get_submodule(name)
        if name in inner:
            assert torch.equal(norm.weight, model.get_submodule(name).weight[mask > limit])
            assert norm.running_var.shape == norm.bias.shape == norm.weight.shape
        else:  # in a residual sum: zeroed where it is pruned, never taken out
            assert torch.equal(norm.weight == 0, mask <= (threshold or -1))
    outer = [mask for name, mask in masks.items() if name not in inner]
    assert anp.details["zeroed"] == sum(int((m <= (threshold or -1)).sum()) for m in outer)
    with pytest.raises(ConfigError, match="compression=99 is out of reach"):
        defense(compression=99.0).check_model(model)
