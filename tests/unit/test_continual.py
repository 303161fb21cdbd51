"""The climb to a flat minimum, Fisher information, and what holds a network where it is."""

import math

import pytest
import torch
from torch import nn

from backdoor_lab.attacks.sbl.continual import (
    anchor_penalty,
    elastic_distance,
    elastic_penalty,
    fisher,
    no_penalty,
    softmax_distance,
)
from backdoor_lab.training.sam import climbed, frozen_statistics


def batch(count=6):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (count, 3, 8, 8), generator=draw, dtype=torch.uint8)
    return pixels.float() / 255, torch.arange(count) % 2


def test_climb_is_as_long_as_the_radius_and_comes_back_exactly(tiny):
    images, labels = batch()
    nn.functional.cross_entropy(tiny(images), labels).backward()
    home = [parameter.detach().clone() for parameter in tiny.parameters()]
    gradient = torch.cat([parameter.grad.flatten() for parameter in tiny.parameters()])
    with climbed(tiny.parameters(), 0.05):
        moves = [there - here for there, here in zip(tiny.parameters(), home, strict=True)]
        move = torch.cat([part.flatten() for part in moves])
    assert move.norm().item() == pytest.approx(0.05, rel=1e-3)
    assert torch.allclose(move, 0.05 * gradient / gradient.norm(), atol=1e-6)
    for here, before in zip(tiny.parameters(), home, strict=True):
        assert torch.equal(here, before)


def test_frozen_statistics_stay_and_thaw(tiny):
    images, _ = batch()
    before = [buffer.clone() for name, buffer in tiny.named_buffers() if "running" in name]
    tiny.train()
    with frozen_statistics(tiny), frozen_statistics(tiny):
        tiny(images)
    after = [buffer for name, buffer in tiny.named_buffers() if "running" in name]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert tiny.body[1].momentum == tiny.body[4].momentum == 0.1
    tiny(images)
    assert not torch.equal(before[0], after[0])


def test_fisher_of_a_logistic_example():
    head = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        head[1].weight.copy_(torch.tensor([[0.0], [1.0]]))
    images = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    labels = torch.tensor([1, 0])
    information = fisher(head, [(images, labels)], divisor=4)["1.weight"]
    likely = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))]
    want = sum(p * ((1 - p) * x) ** 2 for p, x in zip(likely, (2, -1), strict=True)) / 4
    assert information.flatten().tolist() == pytest.approx([want, want], rel=1e-5)


def test_fisher_is_that_of_single_images_in_eval_mode(tiny):
    images, labels = batch(20)  # more than a chunk
    tiny.train()
    information = fisher(tiny, [(images, labels)], divisor=40)
    assert not tiny.training
    want = torch.zeros_like(tiny.head.weight)
    for image, label in zip(images, labels, strict=True):
        score = tiny(image[None]).log_softmax(1)[0, label]
        gradient = torch.autograd.grad(score, tiny.head.weight)[0]
        want += score.detach().exp() * gradient**2 / 40
    assert torch.allclose(information["head.weight"], want, rtol=1e-4)
    assert information.keys() == dict(tiny.named_parameters()).keys()
    assert all((value >= 0).all() for value in information.values())


def test_ewc_is_nothing_at_home_and_a_parabola_around_it(tiny):
    images, labels = batch()
    penalty = elastic_penalty(tiny, [(images, labels)], divisor=12)
    home = penalty(images, tiny(images))
    home.backward()
    assert home == 0
    assert all((parameter.grad == 0).all() for parameter in tiny.parameters())
    information = fisher(tiny, [(images, labels)], divisor=12)["head.bias"]
    with torch.no_grad():
        tiny.head.bias += 0.5
    away = penalty(images, tiny(images))
    assert away.item() == pytest.approx((information * 0.25).sum().item(), rel=1e-5)


def test_elastic_has_no_factor_one_half():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(3.0)
    value = elastic_distance(
        model, {"weight": torch.tensor([[2.0]])}, {"weight": torch.tensor([[1.0]])}
    )
    assert value == 8


def test_anchoring(tiny):
    there, here = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    assert softmax_distance(here, there).item() == pytest.approx(2 * 0.25**2)
    images, _ = batch()
    tiny.eval()
    penalty = anchor_penalty(tiny, [], 1)
    assert penalty(images, tiny(images)) == 0
    with torch.no_grad():
        tiny.head.bias[0] += 1
    assert penalty(images, tiny(images)) > 0.01
    assert no_penalty(tiny, [], 1)(images, tiny(images)) == 0
