"""What a paper prints beside what we get: a row a cell of its table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from backdoor_lab.papers.printed import VARIANTS, Printed
from backdoor_lab.records import mean_sd
from backdoor_lab.reports.layout import BARE, BESIDE, DASH, HEADS, Place, counted, score
from backdoor_lab.reports.sheet import Sheet

COLUMNS = (
    "dataset", "model", "attack", "target_mode", "poison_rate", "defense", "variant", "aux",
    "aux_ratio",
)  # fmt: skip
SCORES = {
    "acc": "acc", "asr": "asr", "der": "der", "params_m": "parameters", "latency_ms": "latency_ms",
}  # fmt: skip


def comparison(
    title: str, rows: Sequence[Printed], places: Sequence[Place], notes: Sequence[str]
) -> Sheet:
    """Paper, ours (mean ± sd), difference of the means, runs; `notes` and doubts stand below."""
    cells: dict[tuple[str, ...], list[Printed]] = {}
    for row in rows:
        cells.setdefault(row.name, []).append(row)
    shown = [n for n in range(len(COLUMNS)) if len({name[n] for name in cells}) > 1]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    doubts: dict[str, int] = {}
    variants = [numbers[0] for numbers in cells.values() if numbers[0].variant]
    apart = {id(one) for one in places if any(belongs(one.axes, row) for row in variants)}
    lines = []
    for name, numbers in cells.items():
        found = [place for place in places if belongs(place.axes, numbers[0])]
        if numbers[0].defense != BARE and not numbers[0].variant:
            found = [place for place in found if id(place) not in apart]
        reasons = dict.fromkeys(reason for one in numbers for reason in one.reasons())
        marks = [doubts.setdefault(reason, len(doubts) + 1) for reason in reasons]
        beside = "" if found else "not of this grid"
        lines.append(
            [
                *(name[n] or DASH for n in shown),
                *triples(numbers, found, metrics),
                str(runs(found, numbers[0])),
                " ".join([*(f"[{mark}]" for mark in marks), beside]).strip(),
            ]
        )
    heads = [
        *(COLUMNS[n].replace("_", " ") for n in shown),
        *(
            f"{HEADS[SCORES[metric]]}{what}"
            for metric in metrics
            for what in (" paper", " here", " difference")
        ),
        "n",
        "note",
    ]
    told = [f"[{mark}] {reason}" for reason, mark in doubts.items()]
    return Sheet(title, heads, lines, [*notes, *told])


def belongs(axes: Mapping[str, str], row: Printed) -> bool:
    """Whether a cell of the grid is the one that a printed row tells of."""
    keys = row.keys()
    bare = row.defense == BARE
    for key, value in axes.items():
        if bare and (key == "defense" or key.startswith(BESIDE)):
            continue
        if key == "aux" and row.aux == "none":
            continue  # who reads no image is in any grid
        if key in keys and not same(keys[key], value):
            return False
    return all(key in axes for key in keys if needs(key, row))


def needs(key: str, row: Printed) -> bool:
    """Whether a key must be swept by the grid: it sets a variant apart."""
    return row.variant in VARIANTS and VARIANTS[row.variant][0] == key


def same(told: str, value: str) -> bool:
    """Whether two values are the same: as numbers where they are, a folder by one of its names."""
    try:
        return float(told) == float(value)
    except ValueError:
        return told.lower() == value.lower() or told in Path(value).parts[:-1]


def runs(places: Iterable[Place], row: Printed) -> int:
    """How many results stand behind a row; victims that several share count once."""
    records = [place.record for place in places if place.record]
    return len(counted(records, row.defense == BARE))


def triples(
    numbers: Sequence[Printed], places: Sequence[Place], metrics: Sequence[str]
) -> Iterable[str]:
    """Paper, here, difference, for each metric."""
    bare = numbers[0].defense == BARE
    records = counted([place.record for place in places if place.record], bare)
    values = {one.metric: one.value for one in numbers}
    for metric in metrics:
        told = values.get(metric)
        found = [score(one, SCORES[metric], bare) for one in records]
        known = [value for value in found if value is not None]
        yield told or DASH
        yield mean_sd(known, 1)
        yield f"{statistics.mean(known) - float(told):+.1f}" if told and known else DASH
