"""The smallest patch that sends images to a class, for many classes in one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import TypedDict

from backdoor_lab.detectors._squashing import raw_of, squashed
from backdoor_lab.detectors.neural_cleanse.costs import CostRule, Costs
from backdoor_lab.detectors.neural_cleanse.triggers import Best, Inverted
from backdoor_lab.validation import Count, Momentum, Positive, Rate

Logits = Callable[[Tensor], Tensor]
Parts = list[tuple[Tensor, Tensor]]
BETA = 0.9  # Adam's second one


class Search(TypedDict):
    """How triggers are sought.

    Attributes:
        passes: over the images, at most.
        lr: of Adam.
        momentum: its first beta.
        success: share of the images that must reach the class.
        gain: a best norm counts as better if below `gain` times the one before it.
        stop_after: passes without a better one, after which a class is done.
        cost: of the mask's size.
    """

    passes: Count
    lr: Positive
    momentum: Momentum
    success: Rate
    gain: Rate
    stop_after: Count
    cost: CostRule


def painted(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """(1 - m) x + m p: images (B, C, H, W) under each of T triggers, (T, B, C, H, W)."""
    return torch.lerp(images[None], pattern[:, None], mask[:, None])


def invert(
    logits: Logits, parts: Parts, targets: Tensor, start: tuple[Tensor, Tensor], search: Search
) -> Inverted:
    """The smallest triggers that were seen to succeed.

    min over (m, p) of mean CE(f((1 - m) x + m p), t) + cost * sum m, for all t at once: nothing
    couples images where BatchNorm is in eval mode, so that each class goes its own way.

    Args:
        logits: images (N, C, H, W) to fp32 logits (N, classes).
        parts: images (B, C, H, W) in [0, 1] with the model's answers (B,); those that it takes for
            a class already do not count for it.
        targets: classes (T,), on the device of the images.
        start: mask (1, H, W) and pattern (C, H, W) in (0, 1) that every class starts from.
        search: how.
    """
    raw = [raw_of(one).repeat(len(targets), 1, 1, 1).requires_grad_() for one in start]
    adam = torch.optim.Adam(raw, lr=search["lr"], betas=(search["momentum"], BETA))
    costs = Costs(len(targets), search["cost"])
    best = Best(*(squashed(one.detach()) for one in raw))
    active = torch.arange(len(targets))
    for _ in range(search["passes"]):
        weights = costs.value.to(targets.device)
        share, mask, pattern = one_pass(logits, parts, targets, raw, active, weights, adam)
        success = torch.zeros(len(targets)).bool()
        success[active] = share.cpu() >= search["success"]
        best.update(active, success[active], mask, pattern, search["gain"])
        costs.update(success)
        done = costs.settled & (best.idle >= search["stop_after"])
        active = active[~done[active]]
        if not len(active):
            break
    return best.found


def one_pass(
    logits: Logits, parts: Parts, targets: Tensor, raw: list[Tensor], active: Tensor,
    weights: Tensor, adam: torch.optim.Optimizer,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """A step for each part: the share (A,) that reached its class, and the last triggers."""
    where = active.to(targets.device)
    hits, counts = (torch.zeros(len(active), device=targets.device) for _ in range(2))
    mask = pattern = raw[0]
    for images, answers in parts:
        mask, pattern = (squashed(one[where]) for one in raw)
        found = logits(painted(images, mask, pattern).flatten(0, 1))
        found = found.view(len(active), len(images), -1)
        counted = (answers[None] != targets[where][:, None]).float()
        wanted = targets[where][:, None].expand(-1, len(images))
        wrong = F.cross_entropy(found.flatten(0, 1), wanted.flatten(), reduction="none")
        mean = (wrong.view_as(counted) * counted).sum(1) / counted.sum(1).clamp(min=1)
        adam.zero_grad()
        (mean + weights[where] * mask.sum((1, 2, 3))).sum().backward()
        adam.step()
        hits += ((found.argmax(2) == wanted) * counted).sum(1)
        counts += counted.sum(1)
    return hits / counts.clamp(min=1), mask.detach(), pattern.detach()
