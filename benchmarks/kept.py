"""Records that outlive their folder: `benchmarks/records/<name>.jsonl`, a line a run.

    python -m benchmarks.kept outputs/detectors_digits      # keep what is there now
    python -m benchmarks.kept outputs/photographs --place /my/images=DIR   # but not where that is

A benchmark whose results are gone lays its kept records first, and so goes on where it stopped: a
record whose code or data have changed since is stale, as any other, and its run is repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backdoor_lab.records.record import RESULT

RECORDS = Path(__file__).with_name("records")


@contextmanager
def kept(outputs: Path, places: Mapping[str, str] | None = None) -> Iterator[None]:
    """With the kept records in `outputs`; keeps what is there in the end, also of a failed grid."""
    lay(outputs)
    try:
        yield
    finally:
        keep(outputs, places)


def keep(outputs: Path, places: Mapping[str, str] | None = None) -> Path:
    """Write the records below `outputs` beside those that are kept already; gives the file.

    The newest come last, since of one cell the newest counts: they are laid in this order. A place
    of this machine that stands in a command, such as a data set's, is kept under its name.
    """
    file = RECORDS / f"{outputs.name}.jsonl"
    named = {str(outputs.resolve()): f"outputs/{outputs.name}", **(places or {})}
    found = read(file)
    for result in sorted(outputs.rglob(RESULT), key=lambda result: result.stat().st_mtime):
        text = result.read_text()
        for place, word in named.items():
            text = text.replace(place, word)
        name = str(result.parent.relative_to(outputs))
        found.pop(name, None)
        found[name] = json.loads(text)
    lines = [json.dumps({"folder": name, "record": one}) for name, one in found.items()]
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def lay(outputs: Path) -> None:
    """Write the kept records that `outputs` lacks."""
    for name, record in read(RECORDS / f"{outputs.name}.jsonl").items():
        result = outputs / name / RESULT
        if not result.exists():
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(record, indent=2))


def read(file: Path) -> dict[str, Any]:
    """Records by the folder that each lay in; none where there is no file."""
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {line["folder"]: line["record"] for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("--place", metavar="FOLDER=WORD", action="append", default=[])
    chosen = parser.parse_args()
    keep(chosen.outputs, dict(one.split("=", 1) for one in chosen.place))


if __name__ == "__main__":
    main()
