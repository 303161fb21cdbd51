"""The one typed result of a run, as it lies in `result.json`; of a failed one in `error.json`."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.records.inspection import Inspection
from backdoor_lab.store.whole import write_whole

log = logging.getLogger(__name__)
SCHEMA = 2
RESULT, FAILURE = "result.json", "error.json"


@dataclass(frozen=True)
class MadeFrom:
    """What shaped a result: digests of code and data. A result of others is stale."""

    code: str
    data: str


@dataclass(frozen=True)
class Cost:
    """Of a model.

    Attributes:
        parameters: how many numbers are learnt.
        flops: of one image's forward pass; a multiplication with its addition counts as two.
        latency_ms: of a forward pass of 64 images; the median of a few.
    """

    parameters: int
    flops: int
    latency_ms: float


@dataclass(frozen=True)
class Spent:
    """Wall seconds by what they were spent on, and the most memory that the defense held (MB)."""

    seconds: dict[str, float] = field(default_factory=dict)
    memory_mb: float | None = None
    victim_seconds: float | None = None
    victim_cached: bool = False


@dataclass(frozen=True)
class Record:
    """A run: what was chosen, how the victim and the purified model scored, what it took.

    Attributes:
        task: what was done, such as `purify`.
        choices: the chosen name of each group.
        seed: of the run.
        defender_seed: where the defender's is another one.
        command: repeats it.
        made_from: what shaped it; None of a run that failed.
        chain: the defenses, first to last.
        victim: scores of the victim.
        purified: scores of the purified model, DER among them.
        relearned: scores after a few triggered images have taught each model again, on demand:
            `victim`, `purified`, `clean` and the `exact` purification, which knows the trigger.
        inspection: what detectors and controls found, where they were asked.
        costs: of `victim` and `purified`, as models.
        spent: time and memory of the run.
        trigger: how visible the trigger is (PSNR, SSIM, ...).
        details: what attack, auxiliary kind and defense have to report.
        victim_name: the victim's folder in the store.
        device: what computed it, in words.
        precision: of the trainings that bear it, such as `bf16-mixed`.
        error: why there is no result.
        versions: of the packages.
        schema: of this file.
    """

    task: str
    choices: dict[str, str]
    seed: int
    command: str
    made_from: MadeFrom | None = None
    defender_seed: int | None = None
    chain: tuple[str, ...] = ()
    victim: Scores | None = None
    purified: Scores | None = None
    relearned: dict[str, Scores] = field(default_factory=dict)
    inspection: Inspection | None = None
    costs: dict[str, Cost] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    trigger: dict[str, float] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    victim_name: str | None = None
    device: str | None = None
    precision: str | None = None
    error: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def words(self) -> list[str]:
        """The words of its command, also of one that no shell would read."""
        try:
            return shlex.split(self.command)
        except ValueError:
            return self.command.split()

    def summary(self) -> dict[str, Any]:
        """Scores and seconds, for those who follow runs."""
        again = {f"{name}, relearned": found for name, found in self.relearned.items()}
        models = {"victim": self.victim, "purified": self.purified, **again}
        scores = {name: asdict(found) for name, found in models.items() if found is not None}
        return scores | {"seconds": self.spent.seconds}

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all; a result takes the place of an earlier error."""
        file = folder / (RESULT if self.error is None else FAILURE)
        write_whole(file, json.dumps(asdict(self), indent=2, default=str))
        if self.error is None:
            (folder / FAILURE).unlink(missing_ok=True)


READER = TypeAdapter(Record)


def read_record(folder: Path) -> Record | None:
    """The result in `folder`, or None where there is none that can be read."""
    return _read(folder / RESULT)


def read_failure(folder: Path) -> Record | None:
    """Why the last try in `folder` failed, or None."""
    return _read(folder / FAILURE)


def written(folder: Path) -> int | None:
    """When the result in `folder` was written (ns), or None where there is none."""
    try:
        return (folder / RESULT).stat().st_mtime_ns
    except OSError:
        return None


def forget_failure(folder: Path) -> None:
    """Take away what the last try left, before another one."""
    (folder / FAILURE).unlink(missing_ok=True)


def _read(file: Path) -> Record | None:
    try:
        held = json.loads(file.read_text())
        known = isinstance(held, dict) and held.get("schema") == SCHEMA
        return READER.validate_python(held) if known else None
    except OSError:
        return None
    except (ValueError, ValidationError) as error:
        log.warning("%s cannot be read: %s", file, str(error).splitlines()[0])
        return None
