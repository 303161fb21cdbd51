"""Checkpoints and pickles by hand: they declare and call whatever they are told to."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

Sound = dict[str, bytes]


class Storage:
    """Stands for a storage in a pickle: it declares `numel` numbers, whatever the file holds."""

    def __init__(self, numel: int, key: str = "0") -> None:
        self.told = ("storage", torch.FloatStorage, key, "cpu", numel)


class Call:
    """Calls `function(*arguments)` where it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.told = (function, arguments)

    def __reduce__(self) -> Any:
        return self.told


class Pickler(pickle.Pickler):
    """Writes storages as torch does."""

    def persistent_id(self, obj: Any) -> Any:
        return obj.told if isinstance(obj, Storage) else None


def sound_files(state: dict[str, torch.Tensor]) -> Sound:
    """The weights of one network in every format that is read."""
    modern, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": state}, modern)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    return {"a.safetensors": save(state), "a.pt": modern.getvalue(), "a.pth": legacy.getvalue()}


def pickled(value: Any, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def archive(
    file: Path,
    pickle_bytes: bytes,
    data: bytes = bytes(64),
    deflate: bool = False,
    more: Mapping[str, bytes] | None = None,
) -> Path:
    """A zip as `torch.save` lays it out."""
    method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", method) as written:
        entries = {"a/data.pkl": pickle_bytes, "a/byteorder": b"little", "a/data/0": data}
        for name, content in (entries | dict(more or {}) | {"a/version": b"3\n"}).items():
            written.writestr(name, content)
    return file


def tensor(numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Call:
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, Storage(numel), offset, size, stride, False, OrderedDict())


def put(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name
