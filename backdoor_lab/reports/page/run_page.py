"""What the page of one run shows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from backdoor_lab.records import Record
from backdoor_lab.records.record import RESULT
from backdoor_lab.reports.page.settings import settings, traits
from backdoor_lab.reports.table import RATES, percent, rate, run_title

FILES = (RESULT, ".hydra/config.yaml", "purified.safetensors")
DESCRIBED = {
    "trigger": "Test images: clean, with the trigger, their difference, its spectrum.",
    "scores": "Scores of victim and purified model; the table above has the numbers.",
    "features": "Features of clean and triggered test images in both models (t-SNE).",
    "view_batch_norms": "Statistics and affine entries of the BatchNorm layers, before and after.",
    "view_activations": "What the trigger does to the last feature map, by channel and by class.",
    "view_grad_cam": "Where each model looks on triggered images (Grad-CAM).",
    "view_line": "Loss along the straight line from victim to purified model.",
    "view_auxiliary": "Auxiliary images among seen ones, as the victim sees them (t-SNE).",
}


def context_of(record: Record, folder: Path, page: Path) -> dict[str, Any]:
    """Everything that the template asks for.

    Args:
        record: of the run.
        folder: where the record lies.
        page: the file that will show it; pictures and files are linked from there.
    """
    models = {"victim": record.victim, "purified": record.purified}
    models |= {f"{name}, relearned": found for name, found in record.relearned.items()}
    return {
        "title": run_title(record),
        "record": record,
        "choices": chosen(record),
        "rates": [*RATES.values(), "DER"],
        "scores": {
            name: [rate(scores, one) for one in (*RATES, "der")]
            for name, scores in models.items()
            if scores is not None
        },
        "cross": percent(record.victim.cross if record.victim else None),
        "visible": {name: f"{value:.4g}" for name, value in (record.trigger or {}).items()},
        "details": list(lines(record.details)),
        "pictures": [
            (link(file, page), DESCRIBED.get(file.stem, file.stem.replace("_", " ")))
            for file in sorted(folder.glob("*.png"), key=order)
        ],
        "files": {name: link(folder / name, page) for name in FILES if (folder / name).is_file()},
    }


def chosen(record: Record) -> dict[str, dict[str, str]]:
    """Choices, values that were typed, and seeds."""
    typed = settings(record.words, record.choices)
    named = {key: value for key, value in traits(record).items() if key not in typed}
    return {"Chosen": named, "Set on the command line": typed}


def lines(details: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested details as lines `defense.per_layer.conv1`, value; lists stay in one."""
    for key, value in details.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from lines(value, f"{name}.")
        elif value is not None:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def link(file: Path, page: Path) -> str:
    """A link to a file from `page`."""
    return quote(Path(os.path.relpath(file, page.parent)).as_posix())


def order(file: Path) -> tuple[bool, int, str]:
    """Pictures that every run has come first."""
    known = list(DESCRIBED)
    return file.stem not in known, known.index(file.stem) if file.stem in known else 0, file.stem
