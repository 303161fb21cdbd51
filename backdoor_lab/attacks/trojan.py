"""TrojanNN: a patch made to excite the neurons to which a clean model's head listens most.

Paper     Liu et al., Trojaning Attack on Neural Networks, NDSS 2018; settings of BackdoorBench
Differs   the victim is trained from scratch on poisoned data, as in BackdoorBench; the paper
          retrains a given model on inverted data. Neurons come from the clean model's real head
          (BackdoorBench: a random one), normalisation is inside the model, the patch is optimised
          on training images instead of a black one, may take any colour (BackdoorBench: 0.3 from
          white), and the best that a step reached is kept. The shape is drawn here; BackdoorBench's
          apple is a third party's picture
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from backdoor_lab.attacks._base import Attack, Base
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import Classifier, frozen_copy
from backdoor_lab.seeds import generator_for
from backdoor_lab.validation import Count, Fraction, Index, Positive, Rate, validated
from backdoor_lab.victims import Workshop


class Trojan(Attack):
    """Puts an optimised patch in the lower right of every poisoned image.

    The first four are those of every attack (`Attack`).

    Args:
        shape: of the patch, `apple` or `square`, about a tenth of the image.
        apply: `overwrite` the image, add and `saturate`, or add and `wrap` around at 256.
        neurons: inputs of the head that the patch excites.
        value: what they are to reach.
        epsilon: how far from white the patch may go.
        iterations: signed steps.
        step: size of each.
        images: training images that the patch is optimised on, at most.
    """

    mask: Tensor
    patch: Tensor

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        all_to_all: bool = False,
        poison_rate_base: Base = "train_set",
        shape: Literal["apple", "square"] = "apple",
        apply: Literal["overwrite", "saturate", "wrap"] = "overwrite",
        neurons: Count = 2,
        value: float = 100,
        epsilon: Rate = 1,
        iterations: Count = 1000,
        step: Positive = 0.1,
        images: Count = 32,
    ) -> None:
        super().__init__(poison_rate, target, all_to_all, poison_rate_base)
        self.shape, self.draw_shape = shape, SHAPES[shape]
        self.put = APPLICATIONS[apply]
        self.neurons, self.value, self.epsilon = neurons, value, epsilon
        self.iterations, self.step, self.images = iterations, step, images

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if min(shape[1:]) < 8:
            raise ConfigError(
                f"attack.shape={self.shape} does not fit into images of {shape[1]}x{shape[2]} "
                "pixels; allowed: 8x8 and more"
            )

    def build(self, generator: torch.Generator) -> None:
        _, height, width = self.spec.shape
        mask = self.draw_shape(*places(height, width))
        self.register_buffer("mask", mask)
        self.register_buffer("patch", mask.float().expand(self.spec.shape).clone())

    def trigger(self, images: Tensor) -> Tensor:
        return self.put(images, self.patch, self.mask)

    def prepare(self, shop: Workshop) -> None:
        clean = shop.clean_model()
        model = cast(Classifier, frozen_copy(clean.model)).to(shop.engine.device)
        width = model.head.in_features
        if self.neurons > width:
            raise ConfigError(
                f"attack.neurons={self.neurons} are more than the head has; allowed: 1 to {width}"
            )

        def make(folder: Path) -> dict[str, Any]:
            del folder  # too short a making to be resumed
            order = torch.randperm(len(shop.train), generator=generator_for(shop.seed, "trojan"))
            images = shop.train.cut(order[: self.images]).to(shop.engine.device).float() / 255
            patch, facts = self.optimise(model, images)
            self.patch.copy_(patch)
            return facts

        settings: dict[str, Any] = {"clean": clean.name}
        for name in ("shape", "neurons", "value", "epsilon", "iterations", "step", "images"):
            settings[name] = getattr(self, name)
        made = shop.make_once(self, "trojan_trigger", self, settings, make)
        self.details["patch"] = made.facts

    def optimise(self, model: Classifier, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The patch (C, H, W) in whole grey levels, optimised on `images` (N, C, H, W).

        Minimises the mean of `sum_i (h_i - value)^2` over the chosen neurons i of
        h = features(image with patch) by signed steps inside the mask.
        """
        chosen = strongest(model.head.weight, self.neurons)
        white = self.mask.float().expand(self.spec.shape).to(images.device)
        lowest, highest = (white - self.epsilon).clamp(0, 1), (white + self.epsilon).clamp(0, 1)
        patch = best = white
        least, excited = float("inf"), 0.0
        levels: list[float] = []
        for _ in range(self.iterations + 1):  # the last one judges the last step
            leaf = patch.detach().requires_grad_()
            active = model.features(overwrite(images, leaf, self.mask))[:, chosen]
            cost = (active - self.value).square().sum(1).mean()
            (slope,) = torch.autograd.grad(cost, leaf)
            levels.append(active.mean().item())
            if cost.item() < least:
                best, least, excited = leaf.detach(), cost.item(), levels[-1]
            moved = patch - self.step * slope.sign()  # no slope outside the mask
            patch = moved.clamp(lowest, highest)
        facts = {"excited_before": levels[0], "excited": excited, "cost": least}
        return (best * 255).round() / 255, facts


def strongest(weight: Tensor, count: int) -> Tensor:
    """The `count` inputs of a head (out, in) with the largest column sums of |weight|."""
    return weight.abs().sum(0).topk(count).indices


def places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the pixels' middles lie, y (H, 1) and x (1, W) from 0 to 1."""
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    return y[:, None], x[None]


def apple(y: Tensor, x: Tensor) -> Tensor:
    """A dimpled limacon with a stem: (H, W) bool."""
    right, down = x - 0.734, y - 0.62
    radius = torch.hypot(right, down)
    body = radius**2 <= 0.106 * (1.4 * radius + down)  # r = a (1.4 - cos of the angle from above)
    stem = (right.abs() <= 0.016) & (down.abs() <= 0.13)
    return body | stem


def square(y: Tensor, x: Tensor) -> Tensor:
    """A square (H, W) bool that leaves a margin."""
    return (y > 0.625) & (y < 0.9375) & (x > 0.625) & (x < 0.9375)


def overwrite(images: Tensor, patch: Tensor, mask: Tensor) -> Tensor:
    """The patch instead of the image where the mask (H, W) is."""
    return torch.where(mask, patch, images)


def saturate(images: Tensor, patch: Tensor, mask: Tensor) -> Tensor:
    """The sum with the patch, cut off at white."""
    return torch.where(mask, (images + patch).clamp(0, 1), images)


def wrap(images: Tensor, patch: Tensor, mask: Tensor) -> Tensor:
    """The sum of grey levels modulo 256, as BackdoorBench's cast to 8 bits has it on x86."""
    levels = (images * 255).round() + (patch * 255).round()
    return torch.where(mask, levels.remainder(256) / 255, images)


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"apple": apple, "square": square}
APPLICATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "overwrite": overwrite,
    "saturate": saturate,
    "wrap": wrap,
}
