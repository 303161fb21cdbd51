"""Synthetic: images from a generator that has learnt the training data.

Paper     GIC (Wei et al.) uses DDPM and BigGAN samples: put such images into class folders
Differs   without a folder, a per-class mixture of Gaussians on principal components stands in for
          a generator: fine for digits, blurred for photographs
"""

from __future__ import annotations

from math import ceil
from pathlib import Path

import torch
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor

from backdoor_lab.aux_data._folder import FolderKind
from backdoor_lab.aux_data.seen import unpoisoned
from backdoor_lab.datasets import Data, ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import derive
from backdoor_lab.validation import Count, Rate, validated


class Synthetic(FolderKind):
    """Draws from generated images.

    Args:
        ratio: size as a share of the victim's training split, in (0, 1].
        size: number of images; wins over `ratio`.
        labelled: whether the defender knows the labels.
        folder: ready-made images in class folders; None: fit a mixture to the training split.
        components: principal components a class, at most.
        mixture: Gaussians a class, at most.
    """

    key = "paths.synthetic"

    @validated
    def __init__(
        self,
        ratio: Rate | None,
        size: Count | None,
        labelled: bool,
        folder: Path | None,
        components: Count,
        mixture: Count,
    ) -> None:
        super().__init__(ratio, size, labelled)
        self.folder = folder
        self.needs_training = folder is None
        self.components, self.mixture = components, mixture

    def most_made(self, data: Data) -> None:
        """A generator makes as many as are asked for."""

    def make(self, data: Data, poisoned: Tensor | None, seed: int) -> ImageSet:
        """As many images of each class as its share of the auxiliary set, rounded up."""
        share = self.size / len(data.train) if self.size else self.ratio or 0
        clean = unpoisoned(data.train, poisoned)
        images, labels = [], []
        for label, total in enumerate(data.train.labels.bincount().tolist()):
            members = clean.cut((clean.labels == label).nonzero().flatten())
            if len(members) < 2:
                continue
            count = ceil(share * total)
            draw = derive(seed, f"synthetic/{label}") % 2**32
            images.append(sample(members, count, self.components, self.mixture, draw))
            labels.append(torch.full((count,), label))
        if not images:
            raise ConfigError("aux=synthetic: no class has two clean images; allowed: more data")
        return ImageSet.of(torch.cat(images), torch.cat(labels))


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
