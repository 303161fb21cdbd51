"""Where the numbers of a run go while it runs; `result.json` stays the source of truth."""

from backdoor_lab.tracking._base import RunInfo, Tracker

__all__ = ["RunInfo", "Tracker"]
