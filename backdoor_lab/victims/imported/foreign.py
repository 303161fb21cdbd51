"""What is no file of tensors, and how its owner makes one of it, where its code may run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

NAMED = 5  # of what a pickle names
# The lines below are shown to the owner of a file, for a sandbox of theirs; nothing here runs them.
SAVE = ("save_file({k: v.contiguous().clone() for k, v in %s.items() if torch.is_tensor(v)}, "
        "'model.safetensors')")  # fmt: skip
TORCH = "import torch; from safetensors.torch import save_file"
MODULE = (TORCH, "m = torch.load(%s, map_location='cpu', weights_only=False)",
          "keys = ('state_dict', 'model_state_dict', 'model', 'net')",
          "m = next((m[k] for k in keys if k in m), m) if isinstance(m, dict) else m",
          "m = m.state_dict() if isinstance(m, torch.nn.Module) else m", SAVE % "m")  # fmt: skip
SCRIPT = (TORCH, "m = torch.jit.load(%s, map_location='cpu')", SAVE % "m.state_dict()")
EXPORTED = (TORCH, "m = torch.export.load(%s)", SAVE % "m.state_dict")
ONNX = (TORCH, "import onnx; from onnx.numpy_helper import to_array",
        "m = {t.name: torch.tensor(to_array(t)) for t in onnx.load(%s).graph.initializer}",
        SAVE % "m")  # fmt: skip
MAGIC: dict[tuple[int, bytes], str] = {
    (0, b"\x89HDF"): "an HDF5 file, as Keras writes them",
    (4, b"TFL3"): "a TensorFlow Lite model",
    (0, b"GGUF"): "a GGUF file",
    (0, b"\x93NUMPY"): "a NumPy array",
    (257, b"ustar"): "a tar archive",
    (0, b"\x1f\x8b"): "a gzip archive",
    (0, b"BZh"): "a bzip2 archive",
    (0, b"\xfd7zXZ"): "an xz archive",
    (0, b"7z\xbc\xaf"): "a 7z archive",
    (0, b"Rar!"): "a rar archive",
    (0, b"\x7fELF"): "a program",
    (0, b"MZ"): "a program",
    (0, b"#!"): "a script",
    (0, b"version https://git-lfs"): "a Git LFS pointer instead of the file itself",
    (0, b"<!DOCTYPE"): "a web page",
    (0, b"<html"): "a web page",
}
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat")


class Refused(Exception):  # noqa: N818  # no error of ours: what a file was found to be
    """Why a file is not read, said after its name; `lines` convert it where its code may run."""

    def __init__(self, reason: str, lines: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.lines = tuple(lines)


def refuse_foreign(path: Path, head: bytes) -> None:
    """Refuse what the first bytes of a file tell of.

    Raises:
        Refused: says what it is.
    """
    if not head:
        raise Refused("is empty")
    for (start, magic), what in MAGIC.items():
        if head[start : start + len(magic)] == magic:
            raise Refused(f"is {what}")
    named = path.suffix == ".onnx"
    if named or (head[0] == 8 and head[2:3] == b"\x12" and head[1] < 32):
        raise Refused("is an ONNX graph", written(ONNX, path))


def refuse_archive(path: Path, names: Sequence[str]) -> None:
    """Refuse zips of which a program, a module or other things are made.

    Raises:
        Refused: says what it is.
    """
    last = {PurePosixPath(name).name: name for name in names}
    code = [name for name in names if name.lower().endswith(CODE)]
    if "constants.pkl" in last:
        raise Refused("is a TorchScript archive, which holds code", written(SCRIPT, path))
    if "archive_format" in last or "serialized_exported_program.json" in last:
        raise Refused("is an exported program (.pt2)", written(EXPORTED, path))
    if "extern_modules" in last or code:
        raise Refused(f"is an archive with code ({ascii((code or names)[0])[:80]})")
    if names and all(name.endswith(".npy") for name in names):
        raise Refused("is an archive of NumPy arrays (.npz)")


def unpickled(path: Path, odd: Iterable[str]) -> Refused:
    """The refusal of a pickle that names Python objects."""
    order = sorted(odd, key=lambda name: (name.startswith("torch."), name))
    some = ", ".join(ascii(name)[1:-1][:80] for name in order[:NAMED])
    more = f" and {len(order) - NAMED} more" if len(order) > NAMED else ""
    return Refused(
        f"is a pickle of Python objects ({some}{more}), and to load those is to run their code",
        written(MODULE, path),
    )


def written(lines: Sequence[str], path: Path) -> list[str]:
    """Lines of Python with the file's name in its place."""
    name = ascii(path.name)
    return [line.replace("%s", name) for line in lines]


def shown(name: str, most: int = 80) -> str:
    """A name from a stranger on one line, without what a terminal might act on."""
    text = name.encode("unicode_escape", "backslashreplace").decode()
    return repr(name if name.isprintable() else text)[: most + 2]
