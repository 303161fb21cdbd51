"""Records as tables for the terminal: one run, or a row for each of many."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.records import Record

RATES = {
    "acc": "ACC",
    "acc_target": "target",
    "acc_worst": "worst",
    "asr": "ASR",
    "ra": "RA",
}  # by the name of a score; ACC of the target class and of the worst one stand beside the ACC
CHANGES = ("acc", "asr", "ra")
BY_CLASS = ("acc_target", "acc_worst")
DASH = "–"
CHOICES = (
    "task",
    "dataset",
    "model",
    "attack",
    "defense",
    "aux",
    "calibration",
    "protocol",
    "seed",
    "defender_seed",
)


def choice(record: Record, name: str) -> str | None:
    """What was chosen, of a group, the task or a seed."""
    defender = record.defender_seed
    own = {"task": record.task, "seed": str(record.seed)}
    if defender is not None:
        own["defender_seed"] = str(defender)
    return own.get(name) or record.choices.get(name)


def run_title(record: Record) -> str:
    """Such as `wanet → unibp (external, gic), digits, seed 0`."""
    chosen = record.choices
    attack = chosen.get("attack", DASH)
    where = f"{chosen.get('dataset', DASH)}, seed {record.seed}"
    if not record.chain:
        return f"{attack}, {where}"
    helpers = ", ".join(chosen[key] for key in ("aux", "calibration") if chosen.get(key))
    return f"{attack} → {' → '.join(record.chain)} ({helpers}), {where}"


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent, a dash where it is undefined."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def rate(scores: Scores | None, name: str, digits: int = 2) -> str:
    """A score in percent; a dash where there is no model."""
    return percent(getattr(scores, name) if scores else None, digits)


def result_table(record: Record) -> Table:
    """Victim and, where there is one, purified model of a run."""
    table = Table(title=run_title(record), caption=_costs(record), title_justify="left")
    table.add_column("model")
    for name in (*RATES.values(), "DER"):
        table.add_column(f"{name} %", justify="right")
    table.add_column("seconds", justify="right")
    spent = record.spent
    note = " (cached)" if spent.victim_cached else ""
    rows = [(f"victim{note}", record.victim, spent.seconds.get("victim"))]
    if record.purified is not None:
        rows.append(("purified", record.purified, spent.seconds.get("purify")))
    rows += [(f"{name}, relearned", found, None) for name, found in record.relearned.items()]
    for title, scores, seconds in rows:
        table.add_row(title, *(rate(scores, name) for name in (*RATES, "der")), _seconds(seconds))
    return table


def grid_table(records: Sequence[Record]) -> Table:
    """A row a run, `victim → purified` in percent; choices that all runs share are the title.

    The accuracies on the target class and on the worst one are those of the last model.
    """
    seen = {name: {choice(record, name) for record in records} for name in CHOICES}
    varying = [name for name, values in seen.items() if len(values) > 1]
    shared = [name for name in CHOICES[1:] if len(seen[name]) == 1 and None not in seen[name]]
    common = [f"{name} {seen[name].pop()}" for name in shared]
    count = f"{len(records)} run{'' if len(records) == 1 else 's'}"
    table = Table(title=", ".join([count, *common]), title_justify="left")
    rows = [tuple(choice(record, name) for name in varying) for record in records]
    typed = swept(records) if len(set(rows)) < len(rows) else {}
    for name in (*varying, *typed):
        table.add_column(name, overflow="fold")
    for name in ("ACC %", "ASR %", "RA %", "target, worst %", "DER %", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, record in enumerate(records):
        victim, purified = record.victim, record.purified
        table.add_row(
            *(name or DASH for name in rows[number]),
            *(values[number] or DASH for values in typed.values()),
            *(f"{rate(victim, name, 1)} → {rate(purified, name, 1)}" for name in CHANGES),
            ", ".join(rate(purified or victim, name, 1) for name in BY_CLASS),
            rate(purified, "der", 1),
            _seconds(record.spent.seconds.get("purify")),
        )
    return table


def swept(records: Sequence[Record]) -> dict[str, list[str | None]]:
    """The overrides, other than of choices, that are not the same in all commands."""
    typed = [dict(word.split("=", 1) for word in record.words if "=" in word) for record in records]
    keys = dict.fromkeys(key for one in typed for key in one if key not in CHOICES)
    values = {key: [one.get(key) for one in typed] for key in keys}
    return {key: held for key, held in values.items() if len(set(held)) > 1}


def _seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"


def _costs(record: Record) -> str:
    """What the whole run took, and what the models cost where the defense has changed that."""
    total, memory = record.spent.seconds.get("total"), record.spent.memory_mb
    parts = [
        None if total is None else f"{_seconds(total)} s in all",
        None if memory is None else f"{memory:,.0f} MB held at most while purifying",
    ]
    before, after = (record.costs.get(name) for name in ("victim", "purified"))
    if before and after and before.parameters != after.parameters:
        parts.append(f"{before.parameters:,} → {after.parameters:,} parameters")
    return ", ".join(part for part in parts if part)
