"""Results as tables for the terminal: one run, or a row for each of many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

Result = Mapping[str, Any]

RATES = ("acc", "asr", "ra")
DASH = "–"
CHOICES = ("dataset", "model", "attack", "defense", "aux", "calibration", "protocol", "seed")


def run_title(result: Result) -> str:
    """Such as `wanet → unibp (external, gic), digits, seed 0`."""
    helpers = ", ".join(str(result[key]) for key in ("aux", "calibration") if result.get(key))
    pair = f"{result['attack']} → {result['defense']}"
    return f"{pair} ({helpers}), {result['dataset']}, seed {result['seed']}"


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent, a dash where it is undefined."""
    undefined = value is None or math.isnan(value)
    return DASH if undefined else f"{100 * value:.{digits}f}"  # type: ignore[operator]


def result_table(result: Result) -> Table:
    """Victim and purified model of one run (the content of its `result.json`)."""
    seconds = result.get("seconds") or {}
    table = Table(title=run_title(result), caption=_costs(result), title_justify="left")
    table.add_column("model")
    for name in ("ACC %", "ASR %", "RA %", "DER %", "seconds"):
        table.add_column(name, justify="right")
    note = " (cached)" if seconds.get("victim_cached") else ""
    for stage, key in (("victim", "victim"), ("purified", "purify")):
        scores = result.get(stage) or {}
        table.add_row(
            stage + (note if stage == "victim" else ""),
            *(percent(scores.get(rate)) for rate in (*RATES, "der")),
            _seconds(seconds.get(key)),
        )
    return table


def grid_table(results: Sequence[Result]) -> Table:
    """A row a run, `victim → purified` in percent; choices that all runs share are the title."""
    first = results[0] if results else {}
    varying = [key for key in CHOICES if any(r.get(key) != first.get(key) for r in results)]
    common = [key for key in CHOICES if key not in varying and first.get(key) is not None]
    shared = [f"{key} {first[key]}" for key in common]
    count = f"{len(results)} run{'' if len(results) == 1 else 's'}"
    table = Table(title=", ".join([count, *shared]), title_justify="left")
    for key in varying:
        table.add_column(key, overflow="fold")
    for name in ("ACC %", "ASR %", "RA %", "DER %", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        victim, purified = result.get("victim") or {}, result.get("purified") or {}
        table.add_row(
            *(str(result.get(key, DASH)) for key in varying),
            *(f"{percent(victim.get(r), 1)} → {percent(purified.get(r), 1)}" for r in RATES),
            percent(purified.get("der"), 1),
            _seconds((result.get("seconds") or {}).get("purify")),
        )
    return table


def _seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"


def _costs(result: Result) -> str:
    """What the whole run took."""
    total, memory = (result.get("seconds") or {}).get("total"), result.get("peak_memory_mb")
    parts = [
        None if total is None else f"{_seconds(total)} s in all",
        None if memory is None else f"peak memory {memory:,.0f} MB",
    ]
    return ", ".join(part for part in parts if part)
