"""The clean model that a victim is compared with, if a run has left one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_lab.records import read_record, with_result
from backdoor_lab.victims.folder import CARD

if TYPE_CHECKING:
    from backdoor_lab.run.job import Job


def clean_accuracy(job: Job, victim: str) -> float | None:
    """ACC of attack=none with all else as of the stored `victim`; None where no run knows it."""
    outputs, chosen = Path(job.cfg.paths.outputs), job.names.choices
    runs = outputs / "runs" / chosen["dataset"] / chosen["model"] / "none"
    origin = origin_of(outputs / "victims" / victim)
    for folder in reversed(with_result(runs)) if origin else ():
        record = read_record(folder)
        if record is None or record.victim is None:
            continue
        if origin_of(outputs / "victims" / (record.victim_name or "")) == origin:
            return record.victim.acc
    return None


def origin_of(folder: Path) -> dict[str, Any] | None:
    """What a stored victim was made from, its attack left out; None where it cannot be read."""
    try:
        made_from = json.loads((folder / CARD).read_text())["made_from"]
    except (OSError, ValueError, KeyError):
        return None
    return {key: value for key, value in made_from.items() if key not in ("attack", "code")}
