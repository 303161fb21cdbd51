from copy import deepcopy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from backdoor_lab.config import CONF
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses.tsbd import TSBD
from backdoor_lab.defenses.tsbd.changes import filters, most_changed, most_changed_within
from backdoor_lab.defenses.tsbd.tsbd import Unlearning
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import SAM, Engine, Recipe, Tuning, constant, sgd
from tests.tiny import SPEC, Tiny, stepped, tiny_aux


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(40)


ENGINE = Engine(accelerator="cpu", precision="32-true", progress=False)


def defense(**changes):
    options = {
        "neurons": 0.5, "weights": 0.7, "unlearn_lr": 0.01, "unlearn_epochs": 3, "chance": None,
        "r": 0.05, "alpha": 0.7, "epochs": 2, "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0,
        "batch_size": 20,
    }  # fmt: skip
    tsbd = TSBD(**{**options, **changes})
    tsbd.attach(ENGINE, SPEC, 3)
    return tsbd


def zoo(name, spec):
    with torch.device("meta"):
        return instantiate(OmegaConf.load(CONF / "model" / f"{name}.yaml")).build(spec, 0)


@pytest.mark.parametrize(
    ("name", "total", "left_out"),
    [
        ("preact_resnet18", 3_904, {"layer2.0.shortcut", "layer3.0.shortcut", "layer4.0.shortcut"}),
        ("resnet18", 3_904, {f"layer{n}.0.downsample.0" for n in (2, 3, 4)}),
        ("vgg19_bn", 5_504, {"pre_logits.fc1", "pre_logits.fc2"}),  # linear in the paper
        ("mobilenetv2", 17_056, set()),
        ("densenet161", 20_448, set()),
    ],
)
def test_filters_that_compete(name, total, left_out, spec):
    model = zoo(name, spec)
    found = filters(model, spec.shape)
    convs = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert {n.removeprefix("net.") for n in convs - {n[:-7] for n in found}} == left_out
    assert all(model.get_parameter(n).shape[0] == count for n, count in found.items())
    assert sum(found.values()) == total


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("resnet50", {f"layer{n}.0.downsample.0" for n in (1, 2, 3, 4)}),
        ("regnetx_002", {f"s{n}.b1.downsample.conv" for n in (1, 2, 3, 4)}),  # of equal widths
    ],
)
def test_the_first_layer_of_a_bottleneck_is_no_shortcut(name, left_out):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    found = filters(model, (3, 64, 64))
    convs = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert convs - {n.removesuffix(".weight") for n in found} == left_out


def test_a_small_map_makes_no_linear_layer():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 3))
    model = nn.Sequential(net, nn.Flatten())
    assert filters(model, (3, 3, 3)) == {"0.0.weight": 4, "0.1.weight": 5}


@pytest.fixture
def changes():
    """Of two layers, five and three filters."""
    rng = np.random.default_rng(0)
    return {
        "a": torch.tensor(rng.random((5, 2, 3, 3)), dtype=torch.float32),
        "b": torch.tensor(rng.random((3, 4, 1, 1)), dtype=torch.float32) * 4,
    }


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_filters_are_ranked_by_the_sum_of_their_changes(changes, count):
    sums = {(n, o): float(c[o].sum()) for n, c in changes.items() for o in range(len(c))}
    wanted = set(sorted(sums, key=sums.get, reverse=True)[:count])
    chosen = most_changed(changes, count)
    assert {(n, o) for n, c in chosen.items() for o in range(len(c)) if c[o]} == wanted


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 1.0])
def test_one_threshold_for_the_weights_of_all_chosen_filters(changes, share):
    chosen = most_changed(changes, 3)
    pool = [float(w) for n, c in changes.items() for w in c[chosen[n]].flatten()]
    count = int(share * len(pool))
    wanted = sorted(pool, reverse=True)[:count]
    zeroed = most_changed_within(changes, chosen, share)
    found = [float(w) for n, c in changes.items() for w in c[zeroed[n]]]
    assert sorted(found, reverse=True) == wanted
    assert not any(zeroed[n][~chosen[n]].any() for n in changes)
    if 0.3 <= share < 1:  # filters differ in how much of them goes
        shares = {round(float(z.float().mean()), 6) for n in zeroed for z in zeroed[n][chosen[n]]}
        assert len(shares) > 1


def test_weights_level_with_the_threshold_are_in():
    level = {"a": torch.ones(2, 1, 2, 2)}
    chosen = {"a": torch.tensor([True, False])}
    assert most_changed_within(level, chosen, 0.3)["a"].sum() == 4


def test_the_victim_is_zeroed_where_the_unlearnt_copy_differs_most(model, aux, monkeypatch):
    seen = {}
    original = TSBD.unlearn

    def kept(self, copy, data):
        seen["copy"] = original(self, copy, data)
        return seen["copy"]

    monkeypatch.setattr(TSBD, "unlearn", kept)
    victim = deepcopy(model.state_dict())
    tsbd = defense()
    tsbd.zero(model, aux.data)
    names = ("body.0.weight", "body.3.weight")
    moved = {n: (seen["copy"].get_parameter(n) - victim[n]).abs().detach() for n in names}
    sums = sorted((float(f.sum()) for n in names for f in moved[n]), reverse=True)
    pool = torch.cat([f.flatten() for n in names for f in moved[n] if float(f.sum()) >= sums[7]])
    lost = int(0.7 * len(pool))
    assert tsbd.details["filters"] == 8  # half of 16
    assert tsbd.details["weights"] == lost
    assert tsbd.details["per_layer"].keys() <= set(names)
    after = model.state_dict()
    gone = {n: after[n] != victim[n] for n in names}
    assert sum(int(where.sum()) for where in gone.values()) == lost
    assert all((after[n][where] == 0).all() for n, where in gone.items())
    floor = pool.sort(descending=True).values[lost - 1]
    assert min(float(moved[n][gone[n]].min()) for n in names if gone[n].any()) == floor
    assert all(torch.equal(after[n], t) for n, t in victim.items() if n not in names)


@pytest.fixture
def learnt(model, aux):
    """Dark and bright images, and `model` when it has learnt to tell them apart."""
    pixels = aux.data.images // 4 + 190 * aux.data.labels[:, None, None, None].byte()
    data = ImageSet.of(pixels, aux.data.labels)
    ENGINE.fit(Tuning(model, Recipe(20, 20, 0.05), None, 0), data, "learning")
    assert ENGINE.accuracy(model, data) == 1
    return data


def test_unlearning_ascends_and_ends_at_chance(model, learnt):
    tsbd = defense(unlearn_epochs=40)
    copy = tsbd.unlearn(deepcopy(model), learnt)
    assert tsbd.details["unlearnt_accuracy"] == ENGINE.accuracy(copy, learnt) <= 0.5
    assert 1 < tsbd.details["unlearn_epochs"] < 40
    assert ENGINE.accuracy(model, learnt) == 1


def test_unlearning_ends_at_its_cap(model, learnt):
    tsbd = defense(unlearn_epochs=2, unlearn_lr=1e-4)
    copy = tsbd.unlearn(deepcopy(model), learnt)
    assert tsbd.details == {"unlearnt_accuracy": 1.0, "unlearn_epochs": 2}
    batch = learnt.images.float() / 255
    before, after = (F.cross_entropy(m.train()(batch), learnt.labels) for m in (model, copy))
    assert after > before


def test_chance_is_what_calling_all_images_the_same_gives(model, aux, monkeypatch):
    limits = []
    monkeypatch.setattr(Unlearning, "on_train_epoch_end", lambda self: limits.append(self.chance))
    defense(unlearn_epochs=1).unlearn(model, aux.data)
    defense(unlearn_epochs=1, chance=0.2).unlearn(model, aux.data)
    zeros, ones = ((aux.data.labels == label).nonzero().flatten() for label in (0, 1))
    few = aux.data.take(torch.cat([zeros[:5], ones[:8]]))
    defense(unlearn_epochs=1).unlearn(model, few)
    assert limits == [0.5, 0.2, 0.615385]  # of two classes
    model.head.bias.data[1] = 1e6
    assert ENGINE.accuracy(model, few) == 0.615385


def gradients(model, batch):
    loss = F.cross_entropy(model(batch[0]), batch[1])
    return torch.autograd.grad(loss, list(model.parameters()))


def mixed(model, batch, r, alpha):
    """(1 - alpha) g1 + alpha g2 of each tensor, as in the authors' code."""
    first = gradients(deepcopy(model), batch)
    above = deepcopy(model)
    with torch.no_grad():
        for weight, gradient in zip(above.parameters(), first, strict=True):
            weight += r * gradient / gradient.norm().clamp(min=1e-12)
    second = gradients(above, batch)
    return [(1 - alpha) * g1 + alpha * g2 for g1, g2 in zip(first, second, strict=True)]


def test_a_step_of_the_repair_by_hand(model, aux):
    batch = aux.data.images.float() / 255, aux.data.labels
    wanted = mixed(model.train(), batch, 0.05, 0.7)
    home = [weight.detach().clone() for weight in model.parameters()]
    optimizer = SAM(model.parameters(), lr=0.1, rho=0.05, alpha=0.7, apart=True)
    loss = stepped(model, optimizer, batch)
    assert loss.item() > 0
    for weight, before, gradient in zip(model.parameters(), home, wanted, strict=True):
        torch.testing.assert_close(weight, before - 0.1 * gradient, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="closure"):
        optimizer.step()


def test_it_descends_the_loss_and_the_norms_of_its_gradients(model, aux):
    """Against double backward: the gradient of L + alpha r sum of norms, for a small r."""
    model = model.double()
    batch = aux.data.images.double() / 255, aux.data.labels
    weights = list(model.parameters())
    loss = F.cross_entropy(model(batch[0]), batch[1])
    norms = sum(g.norm() for g in torch.autograd.grad(loss, weights, create_graph=True))
    exact = torch.autograd.grad(norms, weights)
    plain = gradients(model, batch)
    r = 1e-6  # no ReLU changes sides
    steep = mixed(model, batch, r, 0.7)
    for total, gradient, slope in zip(steep, plain, exact, strict=True):
        torch.testing.assert_close((total - gradient) / (0.7 * r), slope, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("off", [{"r": 0.0}, {"alpha": 0.0}])
def test_without_climbing_it_is_plain_fine_tuning(model, aux, off):
    tuned = defense(neurons=0.0, **off).purify(deepcopy(model), aux)
    other = defense(neurons=0.0).purify(deepcopy(model), aux)
    plain = Tuning(model, Recipe(2, 20, 0.01, sgd(0.9, 0.0), constant), defense().crop_flip, 3)
    ENGINE.fit(plain, aux.data, "plain")
    for name, value in model.state_dict().items():
        if "tracked" not in name:  # counts every pass
            torch.testing.assert_close(tuned.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(other.head.weight, model.head.weight, atol=1e-5, rtol=1e-4)


def test_running_statistics_learn_once_a_step(model, aux):
    twin = deepcopy(model).train()
    one = defense(neurons=0.0, epochs=1, batch_size=40)
    one.crop_flip = type(one.crop_flip)(0, False)
    purified = one.purify(model, aux)
    twin(aux.data.images.float() / 255)
    for name, value in twin.named_buffers():
        if "running" in name:
            torch.testing.assert_close(purified.get_buffer(name), value)


def test_without_neurons_nothing_is_unlearnt(model, aux, monkeypatch):
    monkeypatch.setattr(TSBD, "unlearn", None)
    tsbd = defense(neurons=0.0)
    tsbd.purify(model, aux)
    assert tsbd.details == {}


def test_zeroed_weights_are_free_while_tuning(model, aux):
    for norm in (model.body[1], model.body[4]):
        nn.init.constant_(norm.bias, 0.1)  # a filter of zeros is not below its ReLU
    tsbd = defense(weights=1.0)
    purified = tsbd.purify(model, aux)
    assert tsbd.details["weights"] > 0
    assert all((purified.body[n].weight != 0).all() for n in (0, 3))


def test_a_share_that_means_no_filter_is_refused(model):
    with pytest.raises(ConfigError, match=r"defense\.neurons=0\.05 means none of 16"):
        defense(neurons=0.05).check_model(model)
    defense(neurons=0.0).check_model(model)
    defense(neurons=0.07).check_model(model)


@pytest.mark.parametrize(
    "changes", [{"neurons": 1.5}, {"r": -1}, {"alpha": 2}, {"epochs": 0}, {"chance": -0.1}]
)
def test_values_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="validation error"):
        defense(**changes)
