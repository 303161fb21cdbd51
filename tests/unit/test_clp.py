from copy import deepcopy

import pytest
import torch
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import batch_norms
from backdoor_lab.defenses.clp import (
    CLP,
    graph_pairs,
    lipschitz_constants,
    outliers,
    reference_pairs,
)
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import Classifier, ModelFactory
from tests.tiny import SPEC


class PreAct(nn.Module):
    """Two pre-activation blocks; the first has a shortcut convolution registered last."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1, self.conv1 = nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(24), nn.Conv2d(24, 24, 3, padding=1)
        self.shortcut = nn.Conv2d(16, 24, 1)
        self.bn3 = nn.BatchNorm2d(24)
        self.bn4 = nn.BatchNorm2d(48)
        self.head = nn.Linear(48, 2)

    def forward(self, images):
        out = self.bn1(self.stem(images)).relu()
        skip = self.shortcut(out)
        out = self.conv2(self.bn2(self.conv1(out)).relu()) + skip
        out = self.bn4(torch.cat([self.bn3(out).relu(), out], 1))
        return self.head(out.mean((2, 3)))


def purify(model, u=3.0, pairing="graph", std_eps=True):
    defense = CLP(u, pairing, std_eps)
    defense.attach(None, SPEC, 0)
    purified = defense.purify(deepcopy(model), AuxiliarySet("none", None, False))
    return purified, defense


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PreAct().eval()


def zeros(model):
    return {n: (m.weight == 0) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}


def test_pairings(model):
    reference = reference_pairs(model)
    graph = graph_pairs(model, SPEC.shape)
    names = {module: name for name, module in model.named_modules()}
    # order of registration: stem, bn1, conv1, bn2, conv2, shortcut, bn3, bn4
    assert {n: names[c] for n, c in reference.items()} == {
        "bn1": "stem", "bn2": "conv1", "bn3": "shortcut"
    }  # fmt: skip
    assert {n: names[c] for n, c in graph.items()} == {
        "bn1": "stem", "bn2": "conv1", "bn3": "conv2"
    }  # fmt: skip
    assert purify(model)[1].details["unpaired"] == ["bn4"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_pairings_of_preact_resnet18():
    model = Classifier("preact_resnet18", SPEC, options={"width": 16}).eval()
    names = {module: name for name, module in model.named_modules()}
    reference = {n: names[c] for n, c in reference_pairs(model).items()}
    graph = {n: names[c] for n, c in graph_pairs(model, SPEC.shape).items()}
    assert len(reference) == len(graph) == 16
    for stage in "234":
        assert reference[f"net.layer{stage}.1.bn1"] == f"net.layer{stage}.0.shortcut"
        assert graph[f"net.layer{stage}.1.bn1"] == f"net.layer{stage}.0.conv2"
    same = {n for n in graph if graph[n] == reference[n]}
    assert len(same) == 13


def test_constant_is_the_spectral_norm_of_each_filter():
    weight, gamma, var = torch.randn(5, 4, 3, 3), torch.randn(5), torch.rand(5) + 0.1
    found = lipschitz_constants(weight, gamma, var)
    for j in range(5):
        norm = torch.linalg.matrix_norm(weight[j].reshape(4, 9), 2)
        assert found[j].item() == pytest.approx(
            (norm * gamma[j].abs() / var[j].sqrt()).item(), 1e-4
        )


def test_one_large_filter_is_the_one_pruned_and_nothing_else_changes(model):
    with torch.no_grad():
        model.conv1.weight[5] *= 50
    before = deepcopy(model.state_dict())
    purified, defense = purify(model)
    assert zeros(purified)["bn2"].nonzero().flatten().tolist() == [5]
    assert purified.bn2.bias[5] == 0
    assert defense.details["per_layer"]["bn2"] == 1
    changed = {n for n, t in purified.state_dict().items() if not torch.equal(t, before[n])}
    assert changed <= {f"{bn}.weight" for bn in ("bn1", "bn2", "bn3")} | {"bn1.bias", "bn2.bias"}


def test_scale_of_a_layer_does_not_matter(model):
    with torch.no_grad():
        model.conv1.weight[5] *= 50
    plain = zeros(purify(model)[0])
    with torch.no_grad():
        model.conv1.weight *= 7
        model.bn1.weight *= 3
    scaled = zeros(purify(model)[0])
    assert all(torch.equal(plain[n], scaled[n]) for n in plain)


def test_pruned_sets_are_nested_and_empty_in_the_limit(model):
    low, high = zeros(purify(model, 0.5)[0]), zeros(purify(model, 1.5)[0])
    assert sum(z.sum() for z in low.values()) > sum(z.sum() for z in high.values()) > 0
    assert all((low[n] | ~high[n]).all() for n in low)
    same = purify(model, 1e9)[0].state_dict()
    assert all(torch.equal(t, same[n]) for n, t in model.state_dict().items())


def test_a_dead_channel_does_not_disable_its_layer(model):
    with torch.no_grad():
        model.conv1.weight[5] *= 50
        model.bn2.running_var[3] = 0
        model.conv1.weight[3] = 0
    for std_eps in (True, False):
        assert zeros(purify(model, std_eps=std_eps)[0])["bn2"].nonzero().flatten().tolist() == [5]
    with torch.no_grad():
        model.conv1.weight[3] = 1
    assert zeros(purify(model, std_eps=False)[0])["bn2"].nonzero().flatten().tolist() == [5]


def test_layers_of_ten_channels_or_fewer_are_never_pruned_at_3():
    constants = torch.ones(10)
    constants[0] = 1e6
    assert not outliers(constants, 3).any()
    assert outliers(constants, 2.8).nonzero().flatten().tolist() == [0]


@pytest.fixture
def narrow():
    model = ModelFactory("preact_resnet18", options={"width": 16}).build(SPEC, seed=0).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for norm in batch_norms(model).values():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    return model


def compress(model, ratio, u=2.5):
    defense = CLP(u, "graph", True, ratio)
    defense.attach(None, SPEC, 0)
    return defense.purify(deepcopy(model), AuxiliarySet("none", None, False)), defense


def test_compression_takes_outliers_out_and_goes_on_in_their_order(narrow):
    purified, defense = compress(narrow, 1.5)
    whole, left = (sum(p.numel() for p in m.parameters()) for m in (narrow, purified))
    assert 0.98 * whole / 1.5 < left <= whole / 1.5
    assert defense.details["parameters"] == {"before": whole, "after": left}
    assert not defense.keeps_architecture
    zeroed, marked = purify(narrow, 2.5)
    assert marked.keeps_architecture
    inner = {name for name in batch_norms(narrow) if name.endswith("bn2")}
    outer = sum(
        int((zeroed.get_submodule(n).weight == 0).sum()) for n in inner ^ set(zeros(narrow))
    )
    assert defense.details["zeroed"] == outer > 0
    removed = defense.details["removed"]
    assert set(removed) <= inner
    pairs, highest_left, lowest_gone = graph_pairs(narrow, SPEC.shape), [], []
    for name in inner:
        norm = narrow.get_submodule(name)
        constants = lipschitz_constants(pairs[name].weight, norm.weight, norm.running_var + 1e-5)
        ranked = ((constants - constants.mean()) / constants.std()).sort(descending=True).values
        assert purified.get_submodule(name).num_features == len(ranked) - removed.get(name, 0)
        highest_left.append(ranked[removed.get(name, 0)])
        lowest_gone += ranked[: removed.get(name, 0)][-1:].tolist()
    assert max(highest_left) <= min(lowest_gone)


def test_without_further_channels_a_smaller_model_answers_as_one_that_zeroed_them(narrow):
    purified, defense = compress(narrow, 1.0001, u=1.0)
    zeroed, _ = purify(narrow, 1.0)
    images = torch.rand(4, 3, 8, 8)
    assert defense.details["parameters"]["after"] < 0.9 * defense.details["parameters"]["before"]
    torch.testing.assert_close(purified(images), zeroed(images), atol=1e-4, rtol=1e-4)


def test_more_than_the_architecture_allows_is_refused(narrow, model):
    defense = CLP(3.0, "graph", True, 100.0)
    defense.attach(None, SPEC, 0)
    with pytest.raises(ConfigError, match=r"defense\.compression=100 is out .* null, or up to \d+"):
        defense.check_model(narrow)
    sums = ModelFactory("mobilenetv3_large_100").build(SPEC, seed=0)
    with pytest.raises(ConfigError, match=r"allowed: null$"):
        defense.check_model(sums)
    CLP(3.0, "graph", True, None).check_model(sums)
