"""What lies below `paths.outputs`: results, and what came to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backdoor_lab.records import Record, read_failure, read_record
from backdoor_lab.records.record import FAILURE, RESULT
from backdoor_lab.reports.page.settings import SEEDS, decides, plain, traits


@dataclass(frozen=True)
class Trouble:
    """A run without a result.

    Attributes:
        state: failed, missing or running.
        why: as the run said it.
        command: repeats it.
        traits: what is known of its choices, settings and seeds.
        whole: whether that is all there is, so that what is not named is the default.
    """

    state: str
    why: str
    command: str
    traits: dict[str, str]
    whole: bool = False

    @classmethod
    def of_failure(cls, record: Record) -> Trouble:
        """Of a run that said why."""
        return cls("failed", record.error or "", record.command, traits(record), whole=True)

    @classmethod
    def of_cell(
        cls, state: str, why: str | None, overrides: Sequence[str], command: str
    ) -> Trouble:
        """Of a grid's cell, of which only the overrides are known."""
        typed = [override.partition("=") for override in overrides]
        combined = {key.partition("@")[0] for key, _, _ in typed if "@" in key}  # one name of two
        known = {
            key: plain(value)
            for key, _, value in typed
            if (key in SEEDS or decides(key)) and key not in combined
        }
        return cls(state, why or "", command, known)


@dataclass
class Found:
    """Everything that runs have left.

    Attributes:
        records: by folder, the newest of each command; a folder whose last try failed has none.
        failures: of the last tries that failed.
        failed: their folders.
        older: how many results gave way to a newer one of the same command.
        unread: how many files are of another version, or broken.
    """

    records: dict[Path, Record] = field(default_factory=dict)
    failures: list[Trouble] = field(default_factory=list)
    failed: set[Path] = field(default_factory=set)
    older: int = 0
    unread: int = 0


def read_runs(outputs: Path) -> Found:
    """Results and failures below `outputs/runs`."""
    found = Found()
    for file in sorted((outputs / "runs").rglob(FAILURE)):
        if failure := read_failure(file.parent):
            found.failures.append(Trouble.of_failure(failure))
            found.failed.add(file.parent)
    newest: dict[tuple[tuple[str, str], ...], Path] = {}
    for file in sorted((outputs / "runs").rglob(RESULT), key=lambda file: file.stat().st_mtime):
        folder = file.parent
        record = None if folder in found.failed else read_record(folder)
        if record is None:
            found.unread += folder not in found.failed
            continue
        key = tuple(sorted(traits(record).items()))
        if key in newest:  # made with other defaults: the folder's name is a hash of all values
            del found.records[newest[key]]
            found.older += 1
        newest[key] = folder
        found.records[folder] = record
    found.records = dict(sorted(found.records.items()))
    return found
