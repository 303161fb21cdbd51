"""WaNet: a smooth warp of the image, learnt together with noisy warps that mean nothing.

Paper     Nguyen and Tran, WaNet - Imperceptible Warping-based Backdoor Attack, ICLR 2021,
          arXiv:2102.10369
Differs   the field comes from a generator of its own, not from the state left by the model's
          initialisation; views as in `_views.py`; triggered images are rounded to 8 bits, in
          training too
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backdoor_lab.attacks._base import Attack
from backdoor_lab.attacks._views import Views, generators, portion
from backdoor_lab.datasets import DataSpec, in_eight_bits, nearest
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Recipe
from backdoor_lab.validation import Count, Fraction, Index, NonNegative, Positive, validated


class WaNet(Attack):
    """Poisons and jitters a part of every batch while it trains.

    `target` and `all_to_all` are those of every attack (`Attack`).

    Args:
        poison_rate: share of each batch that is warped and relabelled.
        cross_ratio: images warped with jitter, label kept, per poisoned image.
        s: strength of the warp.
        k: the field's control points per side.
        grid_rescale: factor on the warped grid.
        crop_padding: of the crop after the trigger, in pixels.
        crop_probability: of that crop, per batch.
        rotation: up to so many degrees after the trigger.
        rotation_probability: of that rotation, per batch.
    """

    controls_training = True
    crosses = True
    grid: Tensor
    eight_bits = staticmethod(nearest)

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        all_to_all: bool = False,
        cross_ratio: NonNegative = 2,
        s: NonNegative = 0.5,
        k: Count = 4,
        grid_rescale: Positive = 1,
        crop_padding: Index = 5,
        crop_probability: Fraction = 0.8,
        rotation: NonNegative = 10,
        rotation_probability: Fraction = 0.5,
    ) -> None:
        super().__init__(poison_rate, target, all_to_all)
        self.cross_ratio = cross_ratio
        self.s, self.k, self.grid_rescale = s, k, grid_rescale
        self.view_options = (crop_padding, crop_probability, rotation, rotation_probability)

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        super().check(shape, num_classes)
        if self.poison_rate * (1 + self.cross_ratio) > 1:
            raise ConfigError(
                f"attack.cross_ratio={self.cross_ratio} leaves no room beside "
                f"attack.poison_rate={self.poison_rate}; allowed: up to 1 / poison_rate - 1"
            )

    def attach(self, spec: DataSpec, recipe: Recipe, seed: int) -> None:
        super().attach(spec, recipe, seed)
        self.augment = None  # the batch is augmented in the step, after the trigger
        self.views = Views(*self.view_options, spec.flip)

    def build(self, generator: torch.Generator) -> None:
        _, height, width = self.spec.shape
        field = smooth_field(self.k, height, width, generator)
        scale = torch.tensor([width, height])
        grid = (identity_grid(height, width) + self.s * field / scale) * self.grid_rescale
        self.register_buffer("grid", grid.clamp(-1, 1))

    def trigger(self, images: Tensor) -> Tensor:
        return warp(images, self.grid.expand(len(images), -1, -1, -1))

    def cross(self, images: Tensor) -> Tensor:
        return self.jitter(images, generator_for(self.seed, "wanet cross", images.device))

    def on_train_epoch_start(self) -> None:
        self.cpu_generator, self.generator = generators(
            self.seed, f"wanet {self.current_epoch}", self.device
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        poisoned, crossed = self.counts(len(images), self.cpu_generator)
        with torch.autocast(images.device.type, enabled=False):  # a grid in bf16 is too coarse
            parts = [
                in_eight_bits(self.trigger(images[:poisoned])),
                in_eight_bits(self.jitter(images[poisoned : poisoned + crossed], self.generator)),
                images[poisoned + crossed :],
            ]
            views = self.views(torch.cat(parts), self.cpu_generator, self.generator)
        wanted = torch.cat([self.relabel(labels[:poisoned]), labels[poisoned:]])
        return F.cross_entropy(self.model(views), wanted)

    def counts(self, size: int, cpu_generator: torch.Generator) -> tuple[int, int]:
        """How many of a batch are poisoned, and how many jittered."""
        poisoned = portion(self.poison_rate, size, cpu_generator)
        return poisoned, min(int(poisoned * self.cross_ratio), size - poisoned)

    def jitter(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Noise mode: the warp plus up to half a pixel of its own for each pixel of each image."""
        n, _, height, width = images.shape
        noise = torch.rand((n, height, width, 2), generator=generator, device=images.device) * 2 - 1
        scale = torch.tensor([width, height], device=images.device)
        return warp(images, (self.grid + noise / scale).clamp(-1, 1))


def smooth_field(k: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """The field N (1, H, W, 2): k x k random vectors of mean size 1, enlarged bicubically."""
    points = torch.rand((1, 2, k, k), generator=generator) * 2 - 1
    points = points / points.abs().mean()
    field = F.interpolate(points, size=(height, width), mode="bicubic", align_corners=True)
    return field.permute(0, 2, 3, 1)


def identity_grid(height: int, width: int) -> Tensor:
    """The sampling grid (1, H, W, 2) that changes nothing, (x, y) last."""
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    return torch.stack((columns, rows), dim=-1)[None]


def warp(images: Tensor, grid: Tensor) -> Tensor:
    """Images (N, C, H, W) sampled bilinearly at `grid` (N, H, W, 2)."""
    return F.grid_sample(images, grid, mode="bilinear", align_corners=True)
