"""The zip that `torch.save` writes; one that anybody else wrote is told from it."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from backdoor_lab.victims.imported.foreign import Refused, refuse_archive, shown

PICKLE = 16 * 2**20  # bytes of the pickle that names the tensors
ENTRIES = 100_000


def pickle_of(path: Path, stream: BinaryIO, size: int) -> bytes:
    """The pickle in a zip of `torch.save`.

    Raises:
        Refused: a damaged zip, one that unpacks to more than it is, one with other things in it.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
        names = [entry.filename for entry in entries]
        refuse_archive(path, names)
        refuse_tricks(entries, names, size)
        found = [one for one in entries if PurePosixPath(one.filename).name == "data.pkl"]
        if len(found) != 1:
            raise Refused(f"is a zip archive with {len(found)} of the data.pkl that torch.save has")
        if found[0].file_size > PICKLE:
            raise Refused(f"names its tensors in {found[0].file_size} bytes; {PICKLE} are enough")
        stream.seek(found[0].header_offset + 26)
        stream.seek(sum(struct.unpack("<HH", stream.read(4))), io.SEEK_CUR)
        return stream.read(found[0].file_size)
    except (zipfile.BadZipFile, struct.error, ValueError, OSError, RuntimeError) as error:
        # zipfile's word for a version of the format that it does not read is a RuntimeError
        raise Refused(f"is a damaged zip archive ({shown(str(error))})") from None


def refuse_tricks(entries: list[zipfile.ZipInfo], names: list[str], size: int) -> None:
    """Refuse what `torch.save` never writes."""
    if len(names) > ENTRIES or len(set(names)) < len(names):
        raise Refused(f"is a zip archive of {len(names)} entries, too many or of the same name")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Refused(
                f"is a zip archive that compresses or encrypts {shown(entry.filename)}, as "
                f"torch.save never does ({entry.compress_size} bytes become {entry.file_size})"
            )
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not entry.filename.isprintable():
            raise Refused(f"is a zip archive with the entry {shown(entry.filename)}, no plain name")
    if sum(entry.file_size for entry in entries) > size:
        raise Refused("is a zip archive whose entries are larger than it is")
