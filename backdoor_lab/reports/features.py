"""Where triggered images lie among the classes, as the model sees them (t-SNE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from backdoor_lab.reports.style import INK

PALETTE = (  # Paul Tol's "muted" and a grey: ten hues that the colour-blind tell apart
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933"),
    *("#DDCC77", "#CC6677", "#882255", "#AA4499", "#BBBBBB"),
)
MOST_POINTS = 400


def feature_picture(
    path: Path,
    features: Mapping[str, tuple[Tensor, Tensor]],
    labels: Tensor,
    classes: Sequence[str],
    seed: int = 0,
    whose: tuple[str, str] = ("clean test images", "test images with the trigger"),
) -> None:
    """A panel a model, or a set: images coloured by class, others as black crosses among them.

    Args:
        path: of the PNG file to write.
        features: by title, penultimate features of (these (N, D), the others (M, D)).
        labels: (N,), true classes of these.
        classes: their names.
        seed: of the choice of points and of t-SNE.
        whose: what these and the others are.
    """
    figure = Figure(figsize=(5.2 * len(features), 5.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(features), squeeze=False)[0]
    for axes, (name, (clean, triggered)) in zip(panels, features.items(), strict=True):
        kept, shown = _drawn(len(clean), seed), _drawn(len(triggered), seed)
        values = np.concatenate([_array(clean)[kept], _array(triggered)[shown]])
        points = embed(values, seed)
        _draw(axes, points[: len(kept)], labels.cpu().numpy()[kept], classes)
        x, y = points[len(kept) :].T
        axes.scatter(x, y, s=16, marker="x", linewidths=0.8, color="black")
        _name_classes(axes, points[: len(kept)], labels.cpu().numpy()[kept], classes)
        axes.set_title(name, color=INK, fontsize=12)
    figure.suptitle("Penultimate features (t-SNE, no units)", color=INK, fontsize=12)
    note = f"dots: {whose[0]}, by class        crosses: {whose[1]}"
    figure.supxlabel(note, color="#6b6b6b", fontsize=10)
    figure.savefig(path)


def embed(values: np.ndarray, seed: int) -> np.ndarray:
    """Features (N, D) to points (N, 2): PCA to 50 dimensions, then t-SNE."""
    count, width = values.shape
    reduced = PCA(min(50, count, width), random_state=seed).fit_transform(values)
    perplexity = min(30.0, (count - 1) / 3)
    tsne = TSNE(perplexity=perplexity, max_iter=400, init="pca", random_state=seed)
    return tsne.fit_transform(reduced)


def _draw(axes: Axes, points: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    for label in range(len(classes)):
        color = PALETTE[label % len(PALETTE)]
        x, y = points[labels == label].T
        axes.scatter(x, y, s=14, color=color, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#cccccc")


def _name_classes(
    axes: Axes, points: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> None:
    """Write each class's name above its points."""
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for label in np.unique(labels):
        own = points[labels == label]
        top = (np.median(own[:, 0]), np.quantile(own[:, 1], 0.98))
        style: dict[str, Any] = {
            "color": INK,
            "fontsize": 10,
            "fontweight": "bold",
            "path_effects": halo,
        }
        axes.annotate(classes[label], top, (0, 4), textcoords="offset points", ha="center", **style)


def _drawn(count: int, seed: int) -> np.ndarray:
    """At most `MOST_POINTS` of `count` indices."""
    return np.random.default_rng(seed).permutation(count)[:MOST_POINTS]


def _array(features: Tensor) -> np.ndarray:
    return features.detach().float().cpu().numpy()
