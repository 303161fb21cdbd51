"""What a person reads beside the weights: where they come from, what was done, how they score."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config import plain_config
from backdoor_lab.models import Classifier
from backdoor_lab.records import Record
from backdoor_lab.reports.table import RATES, rate
from backdoor_lab.victims import Victim

SETTINGS = ("defense", "then", "aux", "calibration")


def card(cfg: DictConfig, record: Record, victim: Victim, purified: Classifier) -> str:
    """A model card in Markdown."""
    parts = [
        ["# A purified image classifier", "", "Made by backdoor_lab. " + WARNING],
        origin(victim, purified),
        ["## What was done", "", *done(cfg, record)],
        scores(record),
        loading(victim, purified),
        ["## Again", "", "```bash", record.command, "```", "", made_with(record)],
    ]
    return "\n".join("\n".join(part) + "\n" for part in parts)


WARNING = (
    "**It is not proven to be free of a backdoor**: a purification makes one unlikely to work, and "
    "what it cost is told below."
)


def origin(victim: Victim, purified: Classifier) -> list[str]:
    """Where the model comes from, and what it takes and gives."""
    architecture, spec, small_stem, options = purified.blueprint
    facts = victim.facts
    source = f"a victim that was trained here, `{victim.name}`"
    if facts:
        source = f"`{facts['name']}` ({facts['format']}), SHA-256 `{facts['file']}`"
    more = [f"options {options}"] if options else []
    stem = ["the 3x3 stem for small images"] if small_stem and purified.has_small_stem else []
    return [
        "## The model", "",
        f"- from {source}",
        f"- architecture: {', '.join([f'`{architecture}` (timm)', *more, *stem])}",
        f"- input: RGB, {spec.shape[1]} x {spec.shape[2]} pixels in [0, 1], normalised by mean "
        f"{list(spec.mean)} and standard deviation {list(spec.std)}, which are no part of the "
        "weights (`model.onnx`, where there is one, normalises by itself)",
        f"- outputs: {', '.join(spec.classes)}, in this order",
        *aside(victim),
    ]  # fmt: skip


def aside(victim: Victim) -> list[str]:
    """What the file held beside the network, and what became of it."""
    held = len(victim.layout.aside) if victim.layout else 0
    copies = len(victim.layout.copies) if victim.layout else 0
    lines = []
    if copies:
        lines.append(
            f"- left out: {copies} tensors that held the weights a second time, such as a running "
            "average, which nobody has purified"
        )
    if held > copies:
        lines.append(f"- handed back as they came: {held - copies} tensors that are no weights")
    return lines


def done(cfg: DictConfig, record: Record) -> list[str]:
    """The defenses, what they were given, and every setting."""
    chosen, aux = record.choices, record.details.get("aux") or {}
    held = f"{aux['size']} images ({chosen.get('aux')})" if aux else "no images"
    settings: dict[str, Any] = {}
    for key in SETTINGS:
        value = plain_config(cfg, key) or {}
        if kept := {name: one for name, one in value.items() if name != "_target_"}:
            settings[key] = kept
    yaml = OmegaConf.to_yaml(OmegaConf.create(settings)).rstrip()
    return [f"{' then '.join(record.chain)}, with {held}:", "", "```yaml", yaml, "```"]


def scores(record: Record) -> list[str]:
    """Both models' scores, and on what they rest."""
    test = record.details.get("test") or {}
    rows = [
        f"| {name} % | {rate(record.victim, key)} | {rate(record.purified, key)} |"
        for key, name in {**RATES, "der": "DER"}.items()
        if getattr(record.victim, key) is not None or getattr(record.purified, key) is not None
    ]
    known = record.victim is not None and record.victim.asr is not None
    unknown = "No trigger is known, so that ASR, RA and DER are not: accuracy tells of no backdoor."
    return [
        "## Scores", "",
        f"On {test.get('images')} images: {test.get('source')}. ACC is the share of clean images "
        "that get their true class (target, worst: of that class); ASR the share of triggered "
        "ones that get the attacker's, RA their true one.", "",
        "| | victim | purified |", "|---|---|---|", *rows,
        *([] if known else ["", unknown]),
    ]  # fmt: skip


def loading(victim: Victim, purified: Classifier) -> list[str]:
    """How the files are loaded."""
    wrapped = victim.layout.wrapped if victim.layout else None
    inner = f'["{wrapped}"]' if wrapped else ""
    if not purified.edits:
        return [
            "## Loading", "", "Where the original was loaded:", "", "```python",
            f'state = torch.load("state_dict.pt", weights_only=True){inner}',
            "model.load_state_dict(state)", "```",
        ]  # fmt: skip
    changed = [f"- `{edit['at']}`: {edit['layer']['type']}" for edit in purified.edits]
    return [
        "## Loading", "",
        "The architecture is no longer the original's, whose class cannot load these weights; with "
        "backdoor_lab, from the folder above this one:", "", "```python",
        "from pathlib import Path", "",
        "from backdoor_lab.models import load_purified", "",
        'model = load_purified(Path(".."))  # images in [0, 1] to logits', "```", "",
        "`model.onnx` (`export.onnx=true`) needs no class at all. What has changed:", "", *changed,
    ]  # fmt: skip


def made_with(record: Record) -> str:
    """Device, precision and versions."""
    packages = [f"{name} {number}" for name, number in record.versions.items()]
    return ", ".join([part for part in (record.device, record.precision) if part] + packages)
