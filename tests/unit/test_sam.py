"""SAM against its formula."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from backdoor_lab.training import SAM, Recipe, Tuning, cosine
from backdoor_lab.training.sam import climbed, frozen_statistics
from tests.tiny import stepped, tiny_aux

LR, RHO = 0.1, 0.5


@pytest.fixture(scope="module")
def data():
    return tiny_aux(16).data


@pytest.fixture(scope="module")
def batch(data):
    return data.images.float() / 255, data.labels


def gradients(model, batch):
    loss = F.cross_entropy(model(batch[0]), batch[1])
    return torch.autograd.grad(loss, list(model.parameters()))


def by_hand(model, batch):
    """Weights after one step from a copy of `model`, and running statistics of its first pass."""
    model = deepcopy(model).train()
    first = gradients(model, batch)
    statistics = {n: t.clone() for n, t in model.named_buffers() if t.is_floating_point()}
    norm = torch.cat([gradient.flatten() for gradient in first]).norm()
    above = deepcopy(model)
    with torch.no_grad():
        for weight, gradient in zip(above.parameters(), first, strict=True):
            weight += RHO * gradient / norm
    second = gradients(above, batch)
    weights = {
        name: weight.detach() - LR * gradient
        for (name, weight), gradient in zip(model.named_parameters(), second, strict=True)
    }
    return weights | statistics


def test_one_step_is_the_formula_and_statistics_move_once(tiny, batch):
    expected = by_hand(tiny, batch)
    optimizer = SAM(tiny.parameters(), LR, RHO)
    optimizer.second_pass = partial(frozen_statistics, tiny)
    loss = stepped(tiny.train(), optimizer, batch)
    assert loss.requires_grad
    found = tiny.state_dict()
    torch.testing.assert_close({name: found[name] for name in expected}, expected)
    assert tiny.body[1].momentum == 0.1


def test_the_engine_takes_the_same_step(tiny, batch, data, engine):
    expected = by_hand(tiny, batch)
    recipe = Recipe(1, 16, LR, partial(SAM, rho=RHO))
    engine.fit(Tuning(tiny, recipe, None, 0), data, "sam")
    found = {name: tiny.state_dict()[name].contiguous() for name in expected}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_saved_state_goes_on_as_if_nothing_had_happened(tiny, batch):
    make = partial(SAM, lr=LR, rho=RHO, base=torch.optim.SGD, momentum=0.9)
    optimizer = make(tiny.train().parameters())
    stepped(tiny, optimizer, batch)
    twin = deepcopy(tiny)
    resumed = make(twin.parameters())
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    for model, continued in ((tiny, optimizer), (twin, resumed)):
        stepped(model, continued, batch)
    assert all(torch.equal(t, twin.state_dict()[n]) for n, t in tiny.state_dict().items())
    fresh = deepcopy(tiny)
    stepped(fresh, make(fresh.parameters()), batch)
    stepped(tiny, optimizer, batch)
    assert not torch.equal(fresh.head.weight, tiny.head.weight)  # the momentum counts


def test_a_schedule_reaches_the_base(tiny, batch):
    recipe = Recipe(4, 16, LR, partial(SAM, base=torch.optim.Adam), cosine)
    made = recipe.optimizers(tiny.parameters(), 1)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
    for _ in range(2):
        stepped(tiny, optimizer, batch)
        scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(LR / 2)


def test_a_step_without_a_closure_is_refused(tiny):
    with pytest.raises(ValueError, match="closure"):
        SAM(tiny.parameters(), LR).step()


def test_an_adaptive_climb_is_measured_in_the_weights_own_sizes(tiny, batch):
    with torch.no_grad():
        tiny.head.weight[0, 0] = 0.0
    F.cross_entropy(tiny(batch[0]), batch[1]).backward()
    tiny.head.bias.grad = None
    home = deepcopy(tiny.state_dict())
    with climbed(tiny.parameters(), RHO, adaptive=True):
        shares = []
        for name, weight in tiny.named_parameters():
            moved = weight.detach() - home[name]
            assert not moved[home[name] == 0].any()
            shares.append((moved / home[name])[home[name] != 0])
        assert torch.cat(shares).norm().item() == pytest.approx(RHO, rel=1e-3)
        assert torch.equal(tiny.head.bias, home["head.bias"])
        assert not torch.equal(tiny.head.weight, home["head.weight"])
    assert all(torch.equal(value, home[name]) for name, value in tiny.state_dict().items())


def test_a_failure_above_brings_the_weights_back(tiny, batch):
    F.cross_entropy(tiny(batch[0]), batch[1]).backward()
    home = deepcopy(tiny.state_dict())
    with pytest.raises(ZeroDivisionError), climbed(tiny.parameters(), RHO):
        raise ZeroDivisionError
    assert all(torch.equal(value, home[name]) for name, value in tiny.state_dict().items())
