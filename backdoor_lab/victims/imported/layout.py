"""Which weight of a stranger's file is which of ours, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
COUNTER = "num_batches_tracked"  # which checkpoints from before PyTorch 0.4.1 lack


@dataclass(frozen=True)
class Layout:
    """How a stranger calls the weights of a network.

    Attributes:
        names: theirs by ours.
        shapes: theirs by our name, where they are matrices and ours are not.
        wrapped: the key of the dictionary in their file.
        aside: tensors that belong to no weight.
    """

    names: dict[str, str]
    shapes: dict[str, list[int]]
    wrapped: str | None = None
    aside: tuple[str, ...] = ()

    def as_text(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @property
    def copies(self) -> list[str]:
        """Tensors set aside that are the same weights again, such as a running average (EMA)."""
        used = {without_first(name) for name in self.names.values()} | set(self.names.values())
        again = [name for name in self.aside if {name, without_first(name)} & used]
        return again if 2 * len(again) > len(self.names) else []

    def theirs(self, name: str) -> str:
        """Their name for a weight of ours, also in a layer that a defense has put in."""
        if name in self.names:
            return self.names[name]
        layers = {
            ours.rpartition(".")[0]: one.rpartition(".")[0] for ours, one in self.names.items()
        }
        layer, rest = name, ""
        while "." in layer:
            layer, _, last = layer.rpartition(".")
            rest = f".{last}{rest}"
            if layer in layers:
                return layers[layer] + rest
        return name


@dataclass(frozen=True)
class Misfit:
    """Where a file and an architecture part; names are ours where a rule knows them.

    Attributes:
        lacking: weights that the file has not.
        extra: tensors that the architecture has no place for.
        misshapen: (the file's shape, ours) by name.
    """

    lacking: list[str]
    extra: list[str]
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __len__(self) -> int:
        return len(self.lacking) + len(self.extra) + len(self.misshapen)

    def __str__(self) -> str:
        parts = []
        if self.lacking:
            parts.append(f"lacks {some(self.lacking)}")
        if self.extra:
            parts.append(f"has {some(self.extra)} that no layer takes")
        if self.misshapen:
            name, (found, wanted) = next(iter(self.misshapen.items()))
            more = f" and {len(self.misshapen) - 1} more" if len(self.misshapen) > 1 else ""
            parts.append(f"has {name} of {sides(found)} where {sides(wanted)} belong{more}")
        return ", ".join(parts)


def matched(
    ways: list[dict[str, str]], shapes: Shapes, expected: Shapes, head: str, wrapped: str | None
) -> Layout | Misfit:
    """The layout under which a file's tensors are the weights of an architecture.

    Args:
        ways: of reading the file's names.
        shapes: of the file's tensors.
        expected: of the architecture's.
        head: the last linear layer, whose number of outputs is free.
        wrapped: the key of the dictionary in the file.

    Returns:
        The layout that fits, or what the nearest one lacks.
    """
    nearest: Misfit | None = None
    for theirs in ways:
        found = {ours: shapes[name] for ours, name in theirs.items()}
        misfit = compared(found, expected, head)
        if not misfit:
            flat = {
                name: list(shape)
                for name, shape in found.items()
                if len(shape) != len(expected[name])
            }
            return Layout(theirs, flat, wrapped, tuple(sorted(set(shapes) - set(theirs.values()))))
        nearest = misfit if nearest is None or len(misfit) < len(nearest) else nearest
    assert nearest is not None  # the file is read in one way at least
    return nearest


def compared(found: Shapes, expected: Shapes, head: str) -> Misfit:
    """Where shapes part, by our names."""
    lacking = [name for name in expected if name not in found and not name.endswith(COUNTER)]
    extra = [name for name in found if name not in expected]
    misshapen = {
        name: (found[name], expected[name])
        for name in expected.keys() & found.keys()
        if not alike(found[name], expected[name], free=name.startswith(f"{head}."))
    }
    return Misfit(lacking, extra, dict(sorted(misshapen.items())))


def alike(found: tuple[int, ...], wanted: tuple[int, ...], free: bool) -> bool:
    """Whether one shape is the other, or its matrix; the first side may be `free`."""
    if free:
        return found[1:] == wanted[1:] and len(found) == len(wanted)
    matrix = (wanted[0], prod(wanted[1:])) if wanted else ()
    return found in (wanted, matrix)


def without_first(name: str) -> str:
    """`conv.weight` of `ema.conv.weight`."""
    return name.partition(".")[2] or name


def some(names: list[str], most: int = 3) -> str:
    """Up to `most` names, for a sentence."""
    shown = ", ".join(name[:80] for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def sides(shape: tuple[int, ...]) -> str:
    """Such as 64x3x7x7."""
    return "x".join(map(str, shape)) or "one number"
