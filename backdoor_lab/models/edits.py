"""Changes of an architecture, told as text: at which place stands which layer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import nn

from backdoor_lab.models.layers import Layer, Plain, described


class Edit(Plain):
    """One change: the layer that stands at a dotted path."""

    at: Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=256)]
    layer: Layer


def replace(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the sub-module at the dotted `path`, and note that as an edit.

    Args:
        model: a `Classifier`, changed in place; its `edits` tell how to build it again.
        path: as in `named_modules`.
        layer: on the device of the model afterwards, in the mode of what stood there.

    Raises:
        ValueError: there is no sub-module at `path`, or `layer` is none that `described` knows.
    """
    places = dict(model.named_modules(remove_duplicate=False))
    if not path or path not in places:
        raise ValueError(f"no sub-module {path!r} in this model")
    edits: Any = model.edits
    edits.append({"at": path, "layer": described(layer)})
    device = next(model.parameters()).device
    parent, _, name = path.rpartition(".")
    places[parent].add_module(name, layer.to(device).train(places[path].training))
