"""Runs for a page to show: records as they lie on disk."""

from dataclasses import replace

from backdoor_lab.records import MadeFrom
from tests.records import CHOICES, record


def leave(outputs, *words, seed=0, asr=0.05, code="code", mark="", **changes):
    """Write a record below `outputs`, its choices and other fields changed; its folder."""
    choices = CHOICES | {key: changes.pop(key) for key in list(changes) if key in CHOICES}
    named = [f"{group}={choices[group]}" for group in ("attack", "defense", "aux", "protocol")]
    made = record(
        choices=choices,
        chain=(choices["defense"],),
        seed=seed,
        command=" ".join(["python", "run.py", *named, *words, f"seed={seed}"]),
        made_from=MadeFrom(code, "data"),
        **changes,
    )
    if made.purified is not None:
        made = replace(made, purified=replace(made.purified, asr=asr))
    name = "-".join([*named, *words]).replace("/", "_")
    folder = outputs / "runs" / choices["dataset"] / name / f"seed{seed}{mark}"
    made.write(folder)
    return folder
