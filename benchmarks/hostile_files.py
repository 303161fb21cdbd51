"""Files that a stranger might hand over: damaged, hostile, or no file of tensors at all.

Each maker takes a seeded draw, an empty folder and bytes of sound files, and returns what to open.
A file that gets to run code leaves `MARKER` in its folder.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from benchmarks.crafting import Call, Sound, archive, pickled, put, tensor

MARKER = "executed"
Maker = Callable[[random.Random, Path, Sound], Path]


def truncated(draw: random.Random, folder: Path, sound: Sound) -> Path:
    name, content = draw.choice(sorted(sound.items()))
    return put(folder, name, content[: draw.choice([draw.randrange(len(content)), -1, -40])])


def flipped(draw: random.Random, folder: Path, sound: Sound) -> Path:
    """Bits in the structure as often as in the weights, which are most of a file."""
    name, content = draw.choice(sorted(sound.items()))
    changed = bytearray(content)
    places = [range(len(content)), range(min(4096, len(content))), range(-4096, 0)]
    for _ in range(draw.choice([1, 1, 8, 200])):
        changed[draw.choice(draw.choice(places))] ^= 1 << draw.randrange(8)
    return put(folder, name, bytes(changed))


def bomb(draw: random.Random, folder: Path, sound: Sound) -> Path:
    kind, zeros = draw.randrange(3), bytes(draw.choice([2**26, 2**28]))
    plain = pickled({"w": tensor(len(zeros) // 4, (len(zeros) // 4,), (1,))})
    if kind == 0:
        return archive(folder / "a.pt", plain, zeros, deflate=True)
    if kind == 1:
        return archive(folder / "a.pt", plain[:-1] + b"0" * 2**26 + b".", deflate=True)
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("w.npy", zeros)
    return folder / "a.npz"


def huge(draw: random.Random, folder: Path, sound: Sound) -> Path:
    many = draw.choice([10**9, 10**12, 2**62])
    values = [
        {"w": tensor(many, (many,), (1,))},
        {"w": tensor(16, (2**20, 2**20), (0, 0))},
        {"w": tensor(16, (4,), (1,), offset=many)},
        {"w": Call(torch.Tensor, 2**18, 2**18)},
        {"w": Call(bytearray, 2**36)},
        {"w": Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float, (many,), (1,), 0)},
        {**dict.fromkeys(("model_name", "num_classes", "bd_test", "clean_data"), 0),
         "model": {"w": tensor(16, (4,), (1,))}, "x": nested_hex(34)},
    ]  # fmt: skip
    number = draw.randrange(len(values) + 2)
    if number < len(values):
        return archive(folder / "a.pt", pickled(values[number]))
    header = {"w": {"dtype": "F32", "shape": [many, many], "data_offsets": [0, 4 * many]}}
    text = json.dumps(header).encode()
    length = len(text) if number == len(values) else draw.choice([2**40, 2**63])
    return put(folder, "a.safetensors", struct.pack("<Q", length) + text + bytes(64))


def nested_hex(depth: int) -> Call:
    """A string that doubles at each step."""
    import _codecs

    value: Any = b"ab" * 8 if depth == 0 else nested_hex(depth - 1)
    return Call(_codecs.encode, value, "hex")


def tricks(draw: random.Random, folder: Path, sound: Sound) -> Path:
    name = draw.choice(["../../../tmp/x", "/etc/x", "..\\x", "a\nb", "\x1b[2J\x1b[31mowned", "‮x"])
    kind, weights = draw.randrange(5), pickled({name: tensor(16, (4,), (1,))})
    if kind == 0:
        return archive(folder / "a.pt", weights, more={name: b"x"})
    if kind == 1:
        return archive(folder / "a.pt", weights)
    if kind == 2:
        return put(folder, "a.safetensors", save({name: torch.zeros(2)}))
    config = {"architecture": name, "label_names": [name], "pretrained_cfg": {"mean": name}}
    text = draw.choice([json.dumps(config), "[" * 10**5, "{}", json.dumps({"auto_map": name})])
    put(folder, "config.json", text.encode())
    if kind == 3:
        (folder / "model.safetensors").symlink_to("/etc/passwd")
    else:
        put(folder, "pytorch_model.bin", pickled(Call(eval, "1")))
    return folder


def running(draw: random.Random, folder: Path, sound: Sound) -> Path:
    """Every way into a pickle: by protocol, by opcode, in a zip, bare, behind sound tensors."""
    target = f"open({str(folder / MARKER)!r}, 'w').close()"
    shell = f"touch '{folder / MARKER}'"
    rebuild = torch._utils._rebuild_parameter_with_state
    # What a hostile file would have called; it is written here, and called nowhere.
    call = draw.choice([
        Call(os.system, shell), Call(exec, target), Call(eval, target),
        Call(getattr, Call(__import__, "os"), "system"),
        Call(pickle.loads, pickled(Call(os.system, shell))), Call(__import__, "os"),
        Call(torch.load, str(folder / MARKER)), Call(rebuild, Call(exec, target), 1, 2, 3),
    ])  # fmt: skip
    beside = {"w": tensor(16, (4,), (1,)), "x": call}
    value = draw.choice([call, {"state_dict": {"w": call}}, beside])
    content = pickled(value, draw.choice([0, 1, 2, 3, 4, 5]))
    if draw.random() < 0.2:
        content = b"(S" + repr(shell).encode() + b"\nios\nsystem\n."  # INST
    if draw.random() < 0.1:
        content = b"\x80\x02\x82\x01."  # an extension code
    kind = draw.randrange(4)
    if kind == 0:
        return archive(folder / "a.pt", content)
    if kind == 1:
        return put(folder, "a.pth", content)
    if kind == 2:
        return put(folder, "a.pth", sound["a.pth"][:200] + content)
    return archive(folder / "a.pt", pickled({"w": 1}), more={"b/data.pkl": content})


def foreign(draw: random.Random, folder: Path, sound: Sound) -> Path:
    """What is handed over by mistake."""
    kinds: list[Callable[[], Any]] = [
        lambda: torch.save(torch.nn.Linear(2, 2), folder / "a"),
        lambda: torch.save([torch.zeros(2)], folder / "a"),
        lambda: torch.save({"a": 1}, folder / "a"),
        lambda: torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "a")),
        lambda: torch.export.save(
            torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), folder / "a.pt2"
        ),
        lambda: archive(folder / "a", b"N.", more={"a/code/model.py": b"import os"}),
        lambda: archive(folder / "a", b"N.", more={"a/lib.so": b"\x7fELF"}),
        *(lambda head=head: put(folder, "a", head + draw.randbytes(600)) for head in HEADS),
        lambda: os.mkfifo(folder / "a"),
        lambda: (folder / "a").symlink_to("/dev/zero"),
        lambda: (folder / "a").mkdir(),
    ]
    draw.choice(kinds)()
    return next(folder.iterdir())


HEADS = (
    b"", b"\x89HDF\r\n", b"\x08\x07\x12\x07pytorch", b"GGUF", b"PK\x03\x04", b"\x1f\x8b\x08", b"MZ",
    b"#!/bin/sh\ntouch executed\n", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec",
    b"\x93NUMPY", b"BZh9", b"\x80\x02", b"\x80\x05\x95", b"\x10\0\0\0\0\0\0\0{",
)  # fmt: skip


def weights(draw: random.Random, folder: Path, sound: Sound) -> Path:
    """Sound files with weights that no network can have."""
    state = torch.load(io.BytesIO(sound["a.pt"]), weights_only=True)["state_dict"]
    name = draw.choice(sorted(name for name, one in state.items() if one.dim() > 1))
    bad = state[name].clone()
    changes: list[Callable[[], torch.Tensor]] = [
        lambda: bad.fill_(float("nan")), lambda: bad.fill_(float("inf")),
        lambda: bad.flatten(), lambda: bad[None], lambda: bad.to(torch.complex64),
        lambda: bad.to_sparse(), lambda: bad.bool(), lambda: bad.to(torch.float8_e4m3fn),
        lambda: bad.short(), lambda: torch.zeros(0),
    ]  # fmt: skip
    state[name] = draw.choice(changes)()
    if draw.random() < 0.2:
        state = {key: one for key, one in state.items() if key != name}
    torch.save(state, folder / "a.pt")
    return folder / "a.pt"


def endless(draw: random.Random, folder: Path, sound: Sound) -> Path:
    """Pickles that want time, depth or room."""
    bodies = [b"(" * 2**20, b"]" * 2**20, b"]q\0" + b"h\0" * 2**20, b"}" + b"h\0" * 10,
              b"\x8a\xff" + b"\xff" * 255, b"\x8b" + struct.pack("<i", 2**31 - 1),
              b"X" + struct.pack("<I", 2**32 - 1), b")" + b"\x85" * 2**21,
              b"K\1q\0" + b"h\0h\0\x86q\0" * 2**18]  # fmt: skip
    content = b"\x80\x02" + draw.choice(bodies) + draw.choice([b".", b""])
    if draw.random() < 0.5:
        return archive(folder / "a.pt", content)
    return put(folder, "a.pth", content)


def crowded(draw: random.Random, folder: Path, sound: Sound) -> Path:
    """Thousands of names to be compared."""
    stem = draw.choice(
        ["a.b.c.d.e.{}.x", "features.{}.weight", "layer1.{}.conv1.weight", "\u00b2.{}"]
    )
    state = {stem.format(n): torch.ones(1) for n in range(draw.choice([2000, 4999, 9999]))}
    return put(folder, "a.safetensors", save(state))


def noise(draw: random.Random, folder: Path, sound: Sound) -> Path:
    name, content = draw.choice(sorted(sound.items()))
    head = content[: draw.choice([0, 8, 64, 512])]
    return put(folder, name, head + draw.randbytes(draw.choice([0, 1, 100, 10**5])))


def sparse(draw: random.Random, folder: Path, sound: Sound) -> Path:
    """Files of which most are holes: of weights, or beside sound ones with one that repeats."""
    many = draw.choice([10**8, 10**10, 10**11])
    if draw.random() < 0.5:
        header = {"w": {"dtype": "F32", "shape": [many], "data_offsets": [0, 4 * many]}}
        text = json.dumps(header).encode()
        file = put(folder, "a.safetensors", struct.pack("<Q", len(text)) + text)
        os.truncate(file, 8 + len(text) + 4 * many)
        return file
    state = torch.load(io.BytesIO(sound["a.pt"]), weights_only=True)["state_dict"]
    state = {f"net.{name}": one for name, one in state.items()}
    torch.save(state | {"z": torch.zeros(1).expand(many)}, folder / "pytorch_model.bin")
    put(folder, "config.json", b"{}")
    os.truncate(put(folder, "junk", b""), 2**40)
    return folder


MAKERS: dict[str, Maker] = {
    "cut off": truncated,
    "bits flipped": flipped,
    "zip bombs": bomb,
    "huge tensors": huge,
    "tricks in names": tricks,
    "pickles that run": running,
    "no file of tensors": foreign,
    "impossible weights": weights,
    "endless pickles": endless,
    "thousands of names": crowded,
    "noise": noise,
    "sparse files": sparse,
}
