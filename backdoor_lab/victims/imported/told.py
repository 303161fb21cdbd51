"""What a file says beside its weights: architecture, classes in their order, normalisation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from backdoor_lab.model_folder import CONFIG, PREPROCESSOR, WEIGHTS, stray_link, weights_of
from backdoor_lab.victims.imported.foreign import Refused, shown

LARGEST = 16 * 2**20  # bytes of a config with the names of many classes
CHANNELS = 3


@dataclass(frozen=True)
class Told:
    """Statements of a file, where it makes any.

    Attributes:
        architecture: timm's name, or that of transformers' class.
        classes: in the order of the outputs.
        mean: per channel.
        std: per channel.
        holds_normalisation: mean and std lie among the weights, and were used with them.
        side: of the images in pixels.
    """

    architecture: str | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    holds_normalisation: bool = False
    side: int | None = None

    def as_text(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def of(cls, text: Mapping[str, Any]) -> Self:
        """From what `as_text` gave, by way of JSON."""
        lists = {key: tuple(one) for key, one in text.items() if isinstance(one, list)}
        return cls(**{**text, **lists})

    def or_else(self, state: Mapping[str, Tensor]) -> Told:
        """With a normalisation that lies among the weights, as `normalize.mean` and `.std` do."""
        found = {
            name.rpartition(".")[2]: tuple(one.flatten().tolist())
            for name, one in state.items()
            if name.rpartition(".")[2] in ("mean", "std") and one.numel() == CHANNELS
        }
        if len(found) < 2:
            return self
        mean, std = as_shares(found["mean"], found["std"])
        return replace(self, mean=mean, std=std, holds_normalisation=True)


def told_by_folder(folder: Path) -> tuple[Path, Told]:
    """The file of weights in a folder as timm and Hugging Face write them, and what is said of it.

    Raises:
        Refused: one of the two is missing or lies elsewhere, or the config is no JSON.
    """
    weights = weights_of(folder)
    if not (folder / CONFIG).is_file() or weights is None:
        raise Refused(f"is a folder without {CONFIG} or without {' or '.join(WEIGHTS[:2])}")
    if stray := stray_link(folder):
        place = shown(str(stray.resolve()))
        raise Refused(f"is a folder whose {stray.name} is a link out of it, to {place}")
    config = as_json(folder / CONFIG, LARGEST)
    if not isinstance(config, dict):
        raise Refused(f"has a {CONFIG} that is no dictionary")
    details = config.get("pretrained_cfg")
    details = details if isinstance(details, dict) else config
    if (folder / PREPROCESSOR).is_file():
        image = as_json(folder / PREPROCESSOR, LARGEST)
        named = {"mean": "image_mean", "std": "image_std"}
        if isinstance(image, dict):
            details = details | {key: image.get(name) for key, name in named.items()}
    mean, std = as_shares(numbers(details.get("mean")), numbers(details.get("std")))
    kinds = config.get("architectures")
    architecture = config.get("architecture") or (kinds[0] if isinstance(kinds, list) else None)
    return weights, Told(
        architecture if isinstance(architecture, str) else None,
        class_names(config.get("label_names") or details.get("label_names"))
        or class_names(by_number(config.get("id2label"))),
        mean,
        std,
        side=pixels(details.get("input_size") or config.get("image_size")),
    )


def by_number(labels: Any) -> list[Any] | None:
    """The values of `{"0": ..., "1": ...}` in the order of the numbers."""
    if not isinstance(labels, dict) or any(not str(key).isdecimal() for key in labels):
        return None
    return [labels[key] for key in sorted(labels, key=int)]


def class_names(value: Any) -> tuple[str, ...] | None:
    """`value`, if it is a list of names."""
    plain = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return tuple(value) if plain and value else None


def as_shares(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation of images in [0, 1], where those of images in [0, 255] are told."""
    if mean is None or std is None or max(*mean, *std) <= 1:
        return mean, std
    return tuple(one / 255 for one in mean), tuple(one / 255 for one in std)


def pixels(value: Any) -> int | None:
    """The last of `[3, 224, 224]`, or a number, if it is a whole one."""
    last = value[-1] if isinstance(value, list) and value else value
    return last if isinstance(last, int) and not isinstance(last, bool) else None


def numbers(value: Any) -> tuple[float, ...] | None:
    """`value`, if it is a number a channel."""
    plain = isinstance(value, list) and all(isinstance(one, int | float) for one in value)
    return tuple(map(float, value)) if plain and len(value) == CHANNELS else None


def as_json(path: Path, most: int) -> Any:
    """A JSON file of up to `most` bytes.

    Raises:
        Refused: it is none, or larger.
    """
    if path.stat().st_size > most:
        raise Refused(f"has a {path.name} of more than {most} bytes")
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise Refused(f"has a {path.name} that is no JSON ({type(error).__name__})") from None
