"""Layers as plain text: the arguments of their constructors, all of them in bounds.

Only the layers below can be described and built: text from a stranger cannot name anything else.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from torch import nn

Width = Annotated[int, Field(ge=1, le=65_536)]
Pair = tuple[Annotated[int, Field(ge=1, le=64)], Annotated[int, Field(ge=1, le=64)]]
Margin = tuple[Annotated[int, Field(ge=0, le=64)], Annotated[int, Field(ge=0, le=64)]]
DEPTH = 4
"""How deep a `Sequential` may stand in others."""


class Plain(BaseModel):
    """Text that holds nothing but what is asked for."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Conv2d(Plain):
    """A convolution."""

    type: Literal["Conv2d"] = "Conv2d"
    in_channels: Width
    out_channels: Width
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Margin = (0, 0)
    dilation: Pair = (1, 1)
    groups: Width = 1
    bias: bool = True
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros"


class BatchNorm2d(Plain):
    """A batch normalisation."""

    type: Literal["BatchNorm2d"] = "BatchNorm2d"
    num_features: Width
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
    momentum: Annotated[float, Field(ge=0, le=1)] | None = 0.1
    affine: bool = True
    track_running_stats: bool = True


class Linear(Plain):
    """A linear layer."""

    type: Literal["Linear"] = "Linear"
    in_features: Width
    out_features: Width
    bias: bool = True


class ReLU(Plain):
    """A rectifier."""

    type: Literal["ReLU"] = "ReLU"
    inplace: bool = False


class Identity(Plain):
    """No layer."""

    type: Literal["Identity"] = "Identity"


class Sequential(Plain):
    """Layers one after another."""

    type: Literal["Sequential"] = "Sequential"
    layers: Annotated[list[Layer], Field(max_length=32)]


Layer = Annotated[
    Conv2d | BatchNorm2d | Linear | ReLU | Identity | Sequential, Field(discriminator="type")
]
KINDS: dict[type[nn.Module], type[Plain]] = {
    nn.Conv2d: Conv2d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.Linear: Linear,
    nn.ReLU: ReLU,
    nn.Identity: Identity,
}
LAYERS = {text.__name__: layer for layer, text in KINDS.items()}
Sequential.model_rebuild()
TEXT: TypeAdapter[Layer] = TypeAdapter(Layer)


def described(layer: nn.Module) -> dict[str, Any]:
    """`layer` as plain text, from which `built` makes one of the same shape.

    Raises:
        ValueError: it is none of the layers above, or holds one that is not.
    """
    return checked(_text(layer)).model_dump(mode="json")


def built(text: dict[str, Any]) -> nn.Module:
    """The layer that `text` describes, newly initialised.

    Raises:
        ValueError: `text` describes none of the layers above, or a number is out of bounds.
    """
    return _layer(checked(text))


def checked(text: dict[str, Any]) -> Layer:
    """`text` as one of the layers above; through JSON, where a tuple is a list."""
    found = TEXT.validate_json(json.dumps(text))
    if _depth(found) > DEPTH:
        raise ValueError(f"layers nested more than {DEPTH} deep")
    return found


def _text(layer: nn.Module) -> dict[str, Any]:
    if type(layer) is nn.Sequential:
        if [*layer._modules] != [str(index) for index in range(len(layer))]:
            raise ValueError("a Sequential with named layers cannot be stored as text")
        return {"type": "Sequential", "layers": [_text(inner) for inner in layer]}
    kind = KINDS.get(type(layer))
    if kind is None:
        allowed = ", ".join([*LAYERS, "Sequential"])
        raise ValueError(f"{type(layer).__name__} cannot be stored as text; allowed: {allowed}")
    text = {name: getattr(layer, name) for name in kind.model_fields if name != "type"}
    if "bias" in text:
        text["bias"] = text["bias"] is not None
    return {"type": kind.__name__, **text}


def _layer(text: Layer) -> nn.Module:
    if isinstance(text, Sequential):
        return nn.Sequential(*(_layer(inner) for inner in text.layers))
    return LAYERS[text.type](**text.model_dump(exclude={"type"}))


def _depth(text: Layer) -> int:
    if isinstance(text, Sequential):
        return 1 + max(map(_depth, text.layers), default=0)
    return 0
