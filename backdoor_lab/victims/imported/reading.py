"""The tensors of a file by their names; runs in the quarantine alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from numpy.dtypes import BoolDType, Float32DType, Float64DType, Int32DType, Int64DType, UInt8DType
from safetensors.torch import load_file, save_file
from torch import Tensor

from backdoor_lab.tensors import plain
from backdoor_lab.victims.imported.foreign import Refused, shown
from backdoor_lab.victims.imported.layout import COUNTER
from backdoor_lab.victims.imported.screening import Screened, screen
from backdoor_lab.victims.imported.told import Told, told_by_folder

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
KEPT = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32)
ARRAYS: list[Any] = [
    np.ndarray, np.dtype, BoolDType, Float32DType, Float64DType, Int32DType, Int64DType, UInt8DType,
    *((getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
      for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
]  # fmt: skip  # for BackdoorBench's results, and for the time of their loading
NAMES, LONGEST = 5_000, 256


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        state: its tensors by name, mapped rather than read.
        format: of the file, in words.
        wrapped: the key below which the dictionary was found.
        told: what else the file says.
    """

    state: dict[str, Tensor]
    format: str
    wrapped: str | None = None
    told: Told = field(default_factory=Told)


def read(path: Path) -> Contents:
    """The tensors below `path`, a file or a folder with `config.json`.

    Raises:
        Refused: there are none, or more than tensors.
    """
    if path.is_dir():
        file, told = told_by_folder(path)
        inner = read(file)
        return Contents(inner.state, f"a folder with {inner.format}", inner.wrapped, told)
    screened = screen(path)
    if screened.safetensors:
        return Contents(sound(load_file(path)), "safetensors")
    state, wrapped = dictionary(loaded(path, screened))
    kind = "BackdoorBench's result" if screened.arrays else "a checkpoint"
    return Contents(sound(state), kind, wrapped)


def loaded(path: Path, screened: Screened) -> Any:
    """What torch's restricted unpickler makes of a checkpoint."""
    with torch.serialization.safe_globals(ARRAYS if screened.arrays else []):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=screened.zipped)


def dictionary(found: Any) -> tuple[dict[str, Any], str | None]:
    """The dictionary of tensors in what was loaded, and its key."""
    if not isinstance(found, dict):
        raise Refused(f"holds a {type(found).__name__} instead of a dictionary of tensors")
    for key in WRAPPERS:
        inner = found.get(key)
        if isinstance(inner, dict) and any(isinstance(one, Tensor) for one in inner.values()):
            return inner, key
    return found, None


def sound(state: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of `state`, all of them plain.

    Raises:
        Refused: none, too many, or of a kind that weights are not.
    """
    tensors = {name: one for name, one in state.items() if isinstance(one, Tensor)}
    if not tensors:
        keys = ", ".join(shown(str(key)) for key in list(state)[:3]) or "nothing"
        raise Refused(f"holds {keys}, and no tensors there or below {', '.join(WRAPPERS)}")
    if len(tensors) > NAMES:
        raise Refused(f"holds {len(tensors)} tensors; weights are 1 to {NAMES}")
    for name, one in tensors.items():
        if not isinstance(name, str) or len(name) > LONGEST or not name.isprintable():
            raise Refused(f"calls a tensor {shown(str(name)[:LONGEST])}, no plain name")
        odd = one.layout != torch.strided or one.is_quantized or one.is_meta or one.is_nested
        if odd or one.dtype not in KEPT or type(one) not in (Tensor, torch.nn.Parameter):
            raise Refused(
                f"holds {shown(name)} as a {type(one).__name__} of {one.dtype}, {one.layout}; "
                "weights are dense floats"
            )
    return tensors


def inspect(path: Path) -> dict[str, Any]:
    """What there is to be known before any weight is read, as plain text and numbers."""
    contents = read(path)
    told = contents.told.or_else(contents.state)
    return {
        "shapes": {name: list(one.shape) for name, one in contents.state.items()},
        "format": contents.format,
        "wrapped": contents.wrapped,
        "told": told.as_text(),
    }


def convert(path: Path, plan: dict[str, Any], folder: str) -> dict[str, Any]:
    """Write `model.safetensors` under our names, and what is left aside, below `folder`.

    Args:
        path: of the stranger's file.
        plan: `names` (ours: theirs), `shapes` (ours), `counters` (ours, which it lacks), `aside`.
        folder: to write to.

    Raises:
        Refused: a weight is not finite, or what is left aside is larger than the file.
    """
    state = read(path).state
    ours = {
        name: weight(name, state[theirs], plan["shapes"][name])
        for name, theirs in plan["names"].items()
    }
    ours |= {name: torch.zeros((), dtype=torch.int64) for name in plan["counters"]}
    save_file(plain(ours), Path(folder) / "model.safetensors")
    aside = {name: state[name] for name in plan["aside"]}
    if sum(one.nbytes for one in aside.values()) > stored(state.values()):
        raise Refused("holds tensors that are larger than it is")
    if aside:
        save_file(plain(aside), Path(folder) / "aside.safetensors")
    return {}


def weight(name: str, tensor: Tensor, shape: list[int]) -> Tensor:
    """A stranger's tensor as a weight: single precision, finite, in our shape."""
    if not (tensor.is_floating_point() or name.endswith(COUNTER)):
        raise Refused(f"holds {shown(name)} as {tensor.dtype}; weights are floats")
    value = tensor.detach().reshape(shape)
    value = value.float() if value.is_floating_point() else value.long()
    if not value.isfinite().all():
        raise Refused(f"holds {shown(name)} with {int((~value.isfinite()).sum())} NaN or infinite")
    if name.endswith("running_var") and (value < 0).any():
        raise Refused(f"holds {shown(name)} with negative variances")
    return value


def stored(tensors: Iterable[Tensor]) -> int:
    """Bytes that lie behind tensors: those that several share, or one repeats, count once."""
    storages = [one.untyped_storage() for one in tensors]
    total = reached = 0
    for start, length in sorted((one.data_ptr(), one.nbytes()) for one in storages):
        end = start + length
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
