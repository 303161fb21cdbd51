"""What a classifier is, as plain text from which it can be built again."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Self

import timm
from pydantic import AfterValidator, Field, model_validator

from backdoor_lab.datasets import DataSpec
from backdoor_lab.models.edits import Edit
from backdoor_lab.models.layers import Plain

RESERVED = {*inspect.signature(timm.create_model).parameters, "num_classes", "in_chans"}


def known(architecture: str) -> str:
    """`architecture`, if it is a name that timm builds without reading anything."""
    if not timm.is_model(architecture):
        raise ValueError(f"timm knows no architecture {architecture!r}")
    return architecture


def harmless(options: dict[str, Any]) -> dict[str, Any]:
    """`options`, if they are arguments of an architecture and not of what loads its weights."""
    if taken := sorted(RESERVED & options.keys()):
        raise ValueError(f"options {taken} are no arguments of an architecture")
    return options


Side = Annotated[int, Field(ge=1, le=4096)]
Bounded = Field(ge=-65_536, le=65_536)
Number = Annotated[int, Bounded] | Annotated[float, Bounded]
Word = Annotated[str, Field(max_length=64)]
Option = bool | Number | Word | None | list[bool | Number | Word | None]


class Card(Plain):
    """A classifier in words: nothing here is ever executed, imported or downloaded.

    Attributes:
        architecture: a name that timm knows.
        classes: their names, in the order of the logits.
        shape: (C, H, W) of an image.
        mean: per channel, for images in [0, 1].
        std: per channel.
        small_stem: whether a ResNet has the stem for small images.
        options: further arguments of the architecture.
        edits: what was changed in it, in this order.
    """

    architecture: Annotated[str, Field(pattern=r"^\w+(\.\w+)*$"), AfterValidator(known)]
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=65_536)]
    shape: tuple[Side, Side, Side]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    small_stem: bool
    options: Annotated[dict[str, Option], AfterValidator(harmless)]
    edits: Annotated[tuple[Edit, ...], Field(max_length=1024)]

    @model_validator(mode="after")
    def fits(self) -> Self:
        """As many means and deviations as channels."""
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"mean {self.mean} and std {self.std} for {self.shape[0]} channels")
        return self

    @property
    def spec(self) -> DataSpec:
        """The public facts of the data, but for their augmentation."""
        return DataSpec("", self.classes, self.shape, self.mean, self.std, padding=0, flip=False)
