"""A look at a file before anything is loaded: is it one of tensors, and does it keep to its size.

Nothing is unpacked and nothing unpickled: a zip's directory and a pickle's steps are only read.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backdoor_lab.victims.imported.archive import pickle_of
from backdoor_lab.victims.imported.foreign import Refused, refuse_foreign, unpickled

HEADER = 25 * 2**20  # bytes of a safetensors header
STEPS = 1_000_000  # of a pickle
LEGACY = 5  # pickles that a checkpoint from before PyTorch 1.6 begins with
PLAIN = {
    "collections.OrderedDict", "collections.Counter", "builtins.set", "torch.Size", "torch.device",
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter",
}  # fmt: skip  # a narrower list than torch's own: none of these takes more memory than it is given
DTYPE = re.compile(r"torch\.(bool|(u?int|b?float|complex)\d+\w*)")
NUMPY = {
    "_codecs.encode", "numpy.ndarray", "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}"
      for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
}  # fmt: skip  # of arrays; in BackdoorBench's results alone
BENCH = {"model_name", "num_classes", "model", "bd_test", "clean_data"}  # keys of such a result
OLD = {"__builtin__": "builtins", "copy_reg": "copyreg"}


@dataclass(frozen=True)
class Screened:
    """What was seen: a safetensors file, or a checkpoint, in a zip or not, with arrays or not."""

    safetensors: bool = False
    zipped: bool = False
    arrays: bool = False


def screen(path: Path) -> Screened:
    """What `path` holds.

    Raises:
        Refused: it is damaged, no file of tensors, or more than that.
    """
    if not path.is_file():
        raise Refused("is no regular file")
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(512)
        length = int.from_bytes(head[:8], "little")
        header = head[8:9] == b"{"
        if header and 2 <= length <= min(HEADER, size - 8):
            return Screened(safetensors=True)
        refuse_foreign(path, head)
        if head.startswith(b"PK\x03\x04"):
            stream.seek(0)
            pickle = pickle_of(path, stream, size)
            return judged(path, io.BytesIO(pickle), 1)
        if head[:1] == b"\x80":
            stream.seek(0)
            return judged(path, stream, LEGACY)
    if header:
        raise Refused(f"is cut off, or no safetensors file: a header of {length} bytes")
    raise Refused(f"is of no format that is known here: it begins with {head[:8].hex(' ')}")


def judged(path: Path, stream: BinaryIO, pickles: int) -> Screened:
    """What the first `pickles` pickles of a stream may be loaded with; one lies in a zip.

    Raises:
        Refused: they name what is no tensor, are damaged, or have no end.
    """
    named, strings = named_in(steps(stream, pickles))
    arrays = strings >= BENCH
    allowed = PLAIN | NUMPY if arrays else PLAIN
    if odd := {name for name in named - allowed if not (DTYPE.fullmatch(name) or is_storage(name))}:
        raise unpickled(path, odd)
    return Screened(zipped=pickles == 1, arrays=arrays)


def steps(stream: BinaryIO, pickles: int) -> Iterator[tuple[str, object]]:
    """Name and argument of every step of up to `pickles` pickles, one after another."""
    count = 0
    try:
        for _ in range(pickles):
            for step, argument, _ in pickletools.genops(stream):
                yield step.name, argument
                count += 1
                if count > STEPS:
                    raise Refused(f"is a pickle of more than {STEPS} steps; weights need fewer")
            start = stream.tell()
            if not stream.read(1):
                return
            stream.seek(start)
    except ValueError as error:
        raise Refused(f"is a damaged pickle ({ascii(str(error))[1:-1][:80]})") from None


def named_in(found: Iterable[tuple[str, object]]) -> tuple[set[str], set[str]]:
    """The globals that a pickle names, and its strings."""
    named: set[str] = set()
    strings: set[str] = set()
    last = ["", ""]
    for step, argument in found:
        if step in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            named.add(f"{OLD.get(module, module)}.{name}")
        elif step == "STACK_GLOBAL":
            named.add(".".join(last))
        elif step in ("EXT1", "EXT2", "EXT4"):
            named.add(f"copyreg extension {argument}")
        elif isinstance(argument, str):
            strings.add(argument)
            last = [last[1], argument]
    return named, strings


def is_storage(name: str) -> bool:
    """Whether a global is one of torch's storages, such as `torch.FloatStorage`."""
    module, _, kind = name.rpartition(".")
    return module in ("torch", "torch.storage") and kind.endswith("Storage") and kind.isidentifier()
