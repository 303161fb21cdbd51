"""How the cells of a grid become a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from backdoor_lab.records import Record, mean_sd
from backdoor_lab.reports.sheet import Sheet

Score = Literal[
    "acc", "asr", "ra", "der", "acc_target", "acc_worst", "parameters", "latency_ms", "seconds"
]
HEADS: dict[str, str] = {
    "acc": "ACC", "asr": "ASR", "ra": "RA", "der": "DER", "acc_target": "target class",
    "acc_worst": "worst class", "parameters": "million parameters", "latency_ms": "ms",
    "seconds": "s",
}  # fmt: skip
DASH = "–"
OVER = ("seed", "defender_seed", "attack.target")  # what the papers average over
BARE = "none"  # the defense of a victim
BESIDE = ("defense.", "defense@", "aux", "calibration")  # keys that do not shape the victim


@dataclass(frozen=True)
class Place:
    """A cell of a grid.

    Attributes:
        axes: what the grid sweeps, and what it is here.
        command: makes its result.
        record: its result, if there is one.
        why: there is none, if that is known.
    """

    axes: Mapping[str, str]
    command: str
    record: Record | None = None
    why: str | None = None

    def hole(self) -> str:
        """Its command, and why there is no result."""
        return f"{self.command}  # {self.why}" if self.why else self.command


# By line, whether a victim's or not, then by column.
Cells = dict[tuple[bool, tuple[str, ...]], dict[str, list[Record]]]


@checked(frozen=True)
class Layout:
    """A table: which keys of a grid are its rows and columns, what stands in a cell.

    Attributes:
        rows: keys, outer first.
        columns: keys, outer first.
        scores: what stands in each cell, in this order.
        statistic: of the runs that share a cell.
        over: keys whose values share a cell; any other that would gets rows of its own.
        where: keys, and the values that are kept of them.
        printed: paper and table that stand beside, such as `[unibp, "1"]`.
    """

    rows: list[str]
    columns: list[str]
    scores: list[Score] = Field(min_length=1)
    statistic: Literal["mean_sd", "mean", "median", "worst"] = "mean_sd"
    over: list[str] = field(default_factory=lambda: list(OVER))
    where: dict[str, list[str]] = field(default_factory=dict)
    printed: tuple[str, str] | None = None

    def sheet(self, title: str, places: Sequence[Place]) -> Sheet:
        """Rows and columns of what there is; victims stand above their defenses."""
        kept = [place for place in places if self.keeps(place)]
        swept = {key for place in kept for key in place.axes}
        columns = [key for key in self.columns if key in swept]
        rows = [key for key in self.rows if key in swept]
        rows += self.untold(kept, [*rows, *columns])
        cells: Cells = {}
        heads: dict[str, None] = {}
        for place in kept:
            across = " ".join(short(place.axes[key]) for key in columns if key in place.axes)
            heads[across] = None
            for line in lines_of(place, rows):
                found = cells.setdefault(line, {}).setdefault(across, [])
                found += [place.record] if place.record else []
        most = fullest(cells)
        lines = [
            [*down, *(text for name in heads for text in self.cell(line.get(name, []), bare, most))]
            for (bare, down), line in cells.items()
        ]
        titles = [f"{name} {HEADS[score]}".strip() for name in heads for score in self.scores]
        holes = [place.hole() for place in kept if place.record is None]
        note = f"{len(kept) - len(holes)} of {len(kept)} runs"
        if len(holes) < len(kept):
            note += (
                f"; {self.statistic} over {', '.join(self.over)}: {most[False]} runs a cell, or as "
                "many as stand in brackets; rates in percent"
            )
        note += "."
        return Sheet(title, [*rows, *titles], lines, [note], holes)

    def untold(self, places: Sequence[Place], told: Sequence[str]) -> list[str]:
        """Keys that vary among the runs of a cell, though `told` and `over` do not name them."""
        cells: dict[tuple[str | None, ...], list[Place]] = {}
        for place in places:
            cells.setdefault(tuple(place.axes.get(key) for key in told), []).append(place)
        others = dict.fromkeys(key for place in places for key in place.axes)
        return [
            key
            for key in others
            if key not in self.over
            and any(len({place.axes.get(key) for place in cell}) > 1 for cell in cells.values())
        ]

    def keeps(self, place: Place) -> bool:
        """Whether a cell belongs to the table."""
        return all(place.axes.get(key) in values for key, values in self.where.items())

    def cell(
        self, records: Sequence[Record], bare: bool, most: Mapping[bool, int]
    ) -> Iterator[str]:
        """Each score of some runs, with their number where other cells have more."""
        for name in self.scores:
            values = [score(one, name, bare) for one in counted(records, bare)]
            yield summary(values, self.statistic, name, most[bare])


def counted(records: Sequence[Record], bare: bool) -> list[Record]:
    """The runs that count; of a victim that several share, one."""
    return list({one.victim_name: one for one in records}.values()) if bare else list(records)


def fullest(cells: Cells) -> dict[bool, int]:
    """The most runs behind a cell: True for victims, False for what became of them."""
    most = {True: 0, False: 0}
    for (bare, _), line in cells.items():
        most[bare] = max(most[bare], *(len(counted(found, bare)) for found in line.values()))
    return most


def lines_of(place: Place, rows: Sequence[str]) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """The rows that a run counts for: its victim's, where defenses are rows, and its own."""
    if "defense" in rows:
        bare = {"defense": BARE, **{key: DASH for key in rows if key.startswith(BESIDE)}}
        yield True, tuple(bare.get(key, place.axes.get(key, DASH)) for key in rows)
    yield False, tuple(place.axes.get(key, DASH) for key in rows)


def short(value: str) -> str:
    """A value; of a folder the last two names."""
    return "/".join(Path(value).parts[-2:]) if "/" in value else value


def score(record: Record, name: str, bare: bool) -> float | None:
    """A score of the purified model, or of the `bare` victim: percent, millions, ms or s."""
    if name == "seconds":
        return None if bare else record.spent.seconds.get("purify")
    if name in ("parameters", "latency_ms"):
        cost = record.costs.get("victim" if bare else "purified")
        value = getattr(cost, name) if cost else None
        return value / 1e6 if value is not None and name == "parameters" else value
    scores = record.victim if bare else record.purified
    value = getattr(scores, name) if scores else None
    return None if value is None else 100 * value


def summary(values: Sequence[float | None], statistic: str, name: str, most: int) -> str:
    """A statistic of what is known, as text; fewer values than `most` are counted behind it."""
    known = [value for value in values if value is not None]
    if not known:
        return DASH
    highest = name in ("asr", "parameters", "latency_ms", "seconds")
    found = {
        "mean_sd": mean_sd(known, 1),
        "mean": f"{statistics.mean(known):.1f}",
        "median": f"{statistics.median(known):.1f}",
        "worst": f"{max(known) if highest else min(known):.1f}",
    }
    return found[statistic] if len(known) == most else f"{found[statistic]} ({len(known)})"
