"""Which channels can be taken out; a model without them answers as one that zeroed them."""

from copy import deepcopy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from backdoor_lab.models import ModelFactory, load_purified, save_purified
from backdoor_lab.models.channels import Site, removal, shrink, sites, size, smallest
from tests.tiny import SPEC

SHAPE = (3, 8, 8)


class Mixed(nn.Module):
    """A chain with two readers, a residual sum, a depthwise part, and a flat end of whole maps."""

    def __init__(self):
        super().__init__()
        self.edits = []
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 3, padding=1), BatchNormAct2d(12)
        self.left, self.right = nn.Conv2d(12, 6, 1), nn.Conv2d(12, 6, 3, padding=1, bias=False)
        self.bn2, self.deep = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.conv3, self.bn3 = nn.Conv2d(6, 10, 1), nn.BatchNorm2d(10)
        self.head = nn.Linear(10 * 16, 2)

    def forward(self, images):
        out = self.bn1(self.conv1(images))
        out = self.left(out) + self.right(out)
        out = self.conv3(self.deep(self.bn2(out).relu()))
        return self.head(nn.functional.max_pool2d(self.bn3(out).relu(), 2).flatten(1))


def lively(model):
    """`model` with statistics, scales and shifts as after a training."""
    draw = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 1.5, generator=draw)
            norm.bias.data.normal_(generator=draw)
            norm.running_mean.normal_(generator=draw)
            norm.running_var.uniform_(0.5, 2, generator=draw)
    return model.eval()


def mixed():
    torch.manual_seed(0)
    return lively(Mixed())


def narrow():
    model = ModelFactory("preact_resnet18", options={"width": 16}).build(SPEC, seed=0)
    return lively(model)


def scores(model, places):
    draw = torch.Generator().manual_seed(1)
    widths = {site.norm: model.get_submodule(site.norm).num_features for site in places}
    return {name: torch.rand(width, generator=draw) for name, width in widths.items()}


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_what_is_read_by_sums_and_grouped_convolutions_stays():
    assert sites(mixed(), SHAPE) == [
        Site("conv1", "bn1", ("left", "right")), Site("conv3", "bn3", ("head",))
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["preact_resnet18", "resnet18"])
def test_a_resnet_s_blocks_have_one_site_each(name):
    options = {"width": 16} if name == "preact_resnet18" else {}
    model = ModelFactory(name, options=options).build(SPEC, seed=0).eval()
    found = sites(model, SHAPE)
    inner = "bn2" if name == "preact_resnet18" else "bn1"
    blocks = [f"net.layer{stage}.{block}" for stage in "1234" for block in "01"]
    assert found == [Site(f"{at}.conv1", f"{at}.{inner}", (f"{at}.conv2",)) for at in blocks]


@pytest.mark.parametrize("make", [mixed, narrow])
@pytest.mark.parametrize("ratio", [1.1, 1.4])
def test_a_smaller_model_answers_as_one_that_zeroed_the_channels(make, ratio):
    model = make()
    places, whole = sites(model, SHAPE), parameters(model)
    stays = removal(model, places, scores(model, places), ratio)
    zeroed = deepcopy(model)
    with torch.no_grad():
        for name, kept in stays.items():
            zeroed.get_submodule(name).weight[~kept] = 0
            zeroed.get_submodule(name).bias[~kept] = 0
    gone = {name: int((~kept).sum()) for name, kept in stays.items()}
    expected = size(model, places, gone)
    state = torch.get_rng_state()
    shrink(model, places, stays)
    assert torch.equal(state, torch.get_rng_state())
    assert parameters(model) == expected
    assert 0.9 * whole / ratio < expected <= whole / ratio
    images = torch.rand(4, *SHAPE)
    torch.testing.assert_close(model(images), zeroed(images), atol=1e-4, rtol=1e-4)
    assert model.edits
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_smaller_model_can_be_stored(tmp_path):
    model = narrow()
    places = sites(model, SHAPE)
    shrink(model, places, removal(model, places, scores(model, places), 1.5))
    save_purified(tmp_path, model)
    images = torch.rand(2, *SHAPE)
    torch.testing.assert_close(load_purified(tmp_path)(images), model(images))


def test_channels_go_in_one_order_until_the_budget_is_met():
    model = mixed()
    places = sites(model, SHAPE)
    given = scores(model, places)
    order = sorted((float(s), name, j) for name, one in given.items() for j, s in enumerate(one))
    spared = {name: int(one.argmax()) for name, one in given.items()}
    gone = dict.fromkeys(given, 0)
    for _, name, place in order:
        if size(model, places, gone) <= parameters(model) / 1.3:
            break
        gone[name] += place != spared[name]
    stays = removal(model, places, given, 1.3)
    assert {name: int((~kept).sum()) for name, kept in stays.items()} == gone
    assert all(given[n][~k].max() < given[n][k].max() for n, k in stays.items() if not k.all())


def test_what_is_pruned_goes_in_any_case_and_a_site_s_last_channel_stays():
    model = mixed()
    places = sites(model, SHAPE)
    given = scores(model, places)
    given["bn1"][:5] = -torch.inf
    given["bn3"] = torch.full((10,), -torch.inf)
    given["bn1"][7] = torch.nan  # without a score nothing is known against it
    stays = removal(model, places, given, 1.01)
    assert stays["bn1"].tolist() == [False] * 5 + [True] * 7
    assert stays["bn3"].sum() == 1
    stays = removal(model, places, given, 1e9)
    assert stays["bn1"].nonzero().flatten().tolist() == [7]
    shrink(model, places, stays)
    assert model(torch.rand(2, *SHAPE)).shape == (2, 2)


def test_the_smallest_model_has_one_channel_a_site():
    model = mixed()
    places = sites(model, SHAPE)
    least = smallest(model, places)
    shrink(model, places, removal(model, places, scores(model, places), 1e9))
    assert parameters(model) == least
    assert (model.conv1.out_channels, model.conv3.out_channels, model.head.in_features) == (
        1,
        1,
        16,
    )
