"""Results as the page's scripts read them: facets, and a short row a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backdoor_lab.records import Record
from backdoor_lab.reports.page.facets import Facet
from backdoor_lab.reports.page.found import Trouble
from backdoor_lab.reports.page.settings import traits
from backdoor_lab.reports.table import RATES

Measure = Callable[[Record], float | None]


def score(model: str, name: str) -> Measure:
    """Of a record's `victim` or `purified` model."""
    return lambda record: getattr(getattr(record, model), name, None)


MEASURES: dict[str, Measure] = {
    **{f"victim.{name}": score("victim", name) for name in RATES},
    **{f"purified.{name}": score("purified", name) for name in (*RATES, "der")},
    "seconds": lambda record: record.spent.seconds.get("purify"),
    "memory": lambda record: record.spent.memory_mb,
}


def as_script(
    records: Mapping[Path, Record],
    pages: Mapping[Path, str],
    troubles: Sequence[Trouble],
    facets: Sequence[Facet],
) -> str:
    """A script that defines `LAB`; a page on disk may load scripts, but no JSON."""
    makers: dict[tuple[str | None, ...], int] = {}
    held = {
        "facets": [{"name": f.name, "kind": f.kind, "values": f.values} for f in facets],
        "measures": list(MEASURES),
        "runs": [
            run_row(record, pages[folder], facets, makers) for folder, record in records.items()
        ],
        "troubles": [trouble_row(one, facets) for one in troubles],
    }
    text = json.dumps(held, separators=(",", ":"), allow_nan=False)
    return f"const LAB = {text};\n"


def run_row(
    record: Record,
    page: str,
    facets: Sequence[Facet],
    makers: dict[tuple[str | None, ...], int],
) -> dict[str, Any]:
    """A run; `made` is the same number for the same code, data and precision."""
    known, made_from = traits(record), record.made_from
    maker = (made_from.code, made_from.data) if made_from else ()
    return {
        "page": page,
        "codes": [facet.code(known) for facet in facets],
        "values": [short(measure(record)) for measure in MEASURES.values()],
        "made": makers.setdefault((*maker, record.precision), len(makers)),
    }


def trouble_row(trouble: Trouble, facets: Sequence[Facet]) -> dict[str, Any]:
    """A run without a result."""
    codes = [facet.code(trouble.traits, trouble.whole) for facet in facets]
    kept = {"state": trouble.state, "why": trouble.why, "command": trouble.command}
    return {**kept, "codes": codes}


def short(value: float | None) -> float | None:
    """Six digits behind the point; nothing where it is not finite."""
    return round(value, 6) if value is not None and math.isfinite(value) else None
