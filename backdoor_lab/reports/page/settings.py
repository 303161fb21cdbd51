"""What tells runs apart: choices, and those overrides of their commands that decide a number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from backdoor_lab.config.identity import LEARNING
from backdoor_lab.records import Record

SEEDS = ("seed", "defender_seed")
ASIDE = (
    *("task", "force", "pictures", "views", "keep_model", "logger", "hydra", "export", "table"),
    *SEEDS,
)
PLACES = ("paths.data", "paths.outputs", "paths.cache")


def traits(record: Record) -> dict[str, str]:
    """Task, choices, deciding overrides and seeds of a run, by name."""
    seeds = {"seed": str(record.seed)}
    if record.defender_seed is not None:
        seeds["defender_seed"] = str(record.defender_seed)
    words = record.words
    return {"task": record.task, **record.choices, **settings(words, record.choices), **seeds}


def settings(words: Iterable[str], choices: Mapping[str, str]) -> dict[str, str]:
    """The overrides among `words` that decide a number, but for choices and seeds."""
    typed = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.lstrip("+")
        if equals and key not in choices and decides(key):
            typed[key] = plain(value)
    return typed


def decides(key: str) -> bool:
    """Whether a key has a part in what comes out; `defense@then` is a part of the choice."""
    top, _, rest = key.partition(".")
    if top == "trainer" and rest:
        return rest.partition(".")[0] in LEARNING
    return "@" not in key and top not in ASIDE and key not in PLACES


def plain(value: str) -> str:
    """A number in one spelling, so that 0.10 and 1e-1 are one value."""
    try:
        return f"{float(value):.12g}"
    except ValueError:
        return value


def natural(text: str) -> tuple[tuple[int, float, str], ...]:
    """A key that sorts numbers as such: 2 before 10, `resnet18` before `resnet101`."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return tuple((0, float(p), "") if n % 2 else (1, 0.0, p) for n, p in enumerate(parts) if p)
