"""Synthetic: images from a generator that has learnt the training data.

Paper     GIC (Wei et al.) uses DDPM and BigGAN samples: put such images into class folders
Differs   without a folder, a per-class mixture of Gaussians on principal components stands in for
          a generator: fine for digits, blurred for photographs
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor

from backdoor_lab.aux_data._folder import FolderKind
from backdoor_lab.aux_data._left_out import unpoisoned
from backdoor_lab.aux_data._pool import Pool
from backdoor_lab.datasets import Data, ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import derive
from backdoor_lab.validation import Count, validated


class Synthetic(FolderKind):
    """Draws from generated images.

    Args:
        folder: ready-made images in class folders; None: fit a mixture to the training split.
        components: principal components a class, at most.
        mixture: Gaussians a class, at most.
        options: what every kind takes.
    """

    key = "paths.synthetic"

    @validated
    def __init__(
        self, folder: Path | None, components: Count, mixture: Count, **options: Any
    ) -> None:
        super().__init__(**options)
        self.folder = folder
        self.needs_training = folder is None
        self.components, self.mixture = components, mixture

    def made(self, data: Data, poisoned: Tensor | None, seed: int) -> Pool:
        train = data.train if self.poisoned == "originals" else unpoisoned(data, poisoned)
        counts = self._enough(data, train)
        labels = torch.arange(len(counts)).repeat_interleave(counts)
        return Pool(labels, partial(self._generate, train, labels, seed))

    def _enough(self, data: Data, train: ImageSet) -> Tensor:
        """Images of each class (C,) that suffice for every draw, whatever `classes` it takes."""
        total, fitting = (
            part.labels.bincount(minlength=data.spec.num_classes) for part in (data.train, train)
        )
        total = torch.where(fitting > 1, total, 0)
        if not total.any():
            raise ConfigError("aux=synthetic: no class has two clean images; allowed: more data")
        if self.per_class and not self.size:
            return torch.where(total > 0, self.per_class, 0)
        taken = len(total) if self.classes is None else self.classes
        few = taken if isinstance(taken, int) else len(taken)
        least = total[total > 0].sort().values[:few].sum()
        return (self.wanted(data) * total.double() / least).ceil().long()

    def _generate(self, train: ImageSet, labels: Tensor, seed: int, chosen: Tensor) -> Tensor:
        """Images (n, C, H, W) at positions `chosen` (n,) of the pool that `labels` (M,) tell of."""
        images = torch.empty(len(chosen), *train.shape, dtype=torch.uint8)
        for label in labels[chosen].unique().tolist():
            members = train.cut((train.labels == label).nonzero().flatten())
            places = (labels == label).nonzero().flatten()
            draw = derive(seed, f"synthetic/{label}") % 2**32
            made = sample(members, len(places), self.components, self.mixture, draw)
            ours = labels[chosen] == label
            images[ours] = made[chosen[ours] - places[0]]
        return images


def sample(images: Tensor, count: int, components: int, mixture: int, seed: int) -> Tensor:
    """`count` new uint8 images like `images` (N, C, H, W) of one class.

    A mixture of diagonal Gaussians on principal components, clipped to the range of the class.
    """
    pixels = images.flatten(1).float().div(255).numpy()
    pca = PCA(min(components, len(pixels) - 1), svd_solver="randomized", random_state=seed)
    codes = pca.fit_transform(pixels)
    gaussians = GaussianMixture(
        min(mixture, len(codes)), covariance_type="diag", random_state=seed
    ).fit(codes)
    drawn = pca.inverse_transform(gaussians.sample(count)[0])
    levels = torch.from_numpy(drawn).mul(255).round().clamp(int(images.min()), int(images.max()))
    return levels.to(torch.uint8).view(count, *images.shape[1:])
