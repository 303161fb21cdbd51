"""Inspections as tables for the terminal. Loads without torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from rich.table import Table

from backdoor_lab.records import Change, Evidence, Inspection, Planted, Record, Rule
from backdoor_lab.reports.table import DASH, percent, rate, run_title

WORDS = {
    "flagged": "sign of a backdoor",
    "not flagged": "no evidence found",
    "no verdict": "no verdict",
    "not applicable": "not applicable",
}
READING = (
    "“No evidence found” is no proof of a clean model: each method passes over what stands beside "
    "it. A sign is none either: calibrated rules flag one clean model in twenty if the scores of "
    "its classes are independent and normal, and more where they are not."
)


def inspection_tables(record: Record) -> Iterator[Table]:
    """What detectors say, what a defense changed, what became of the planted controls."""
    found = record.inspection
    if found is None:
        return
    if any(found.evidence.values()):
        yield evidence_table(record, found)
        yield notes_table(found)
    if found.changes:
        yield change_table(found)
    if found.planted:
        yield planted_table(record, found)


def evidence_table(record: Record, found: Inspection) -> Table:
    """A row for each detector and model."""
    table = Table(title=f"Evidence: {run_title(record)}", title_justify="left")
    for name in ("detector", "model", "evidence", "points to", "calibrated", "paper's rule"):
        table.add_column(name)
    table.add_column("seconds", justify="right")
    for detector, by_model in by_detector(found).items():
        words = verdicts(by_model, found.planted)
        for model, one in by_model.items():
            said = (words[model], pointed(one), rule(one.calibrated), rule(one.reference))
            table.add_row(detector, model, *said, f"{one.seconds:.1f}")
        table.add_section()
    return table


def verdicts(by_model: Mapping[str, Evidence], planted: Collection[str]) -> dict[str, str]:
    """What a detector says of each model; to find nothing counts where it sees a plant alone."""
    words = {model: WORDS[one.verdict] for model, one in by_model.items()}
    known = [one.verdict for model, one in by_model.items() if model in planted]
    blind = "not flagged" in known and "flagged" not in known
    if blind and by_model["victim"].verdict == "not flagged":
        words["victim"] = "not applicable: sees no plant"
    return words


def notes_table(found: Inspection) -> Table:
    """What each method cannot see, or why it says nothing."""
    table = Table(caption=READING, title_justify="left", show_lines=True)
    table.add_column("detector")
    table.add_column("what it cannot see, or why it gives no verdict", overflow="fold")
    for detector, by_model in by_detector(found).items():
        one = next(iter(by_model.values()))
        told = one.cannot_see if one.reason is None else one.reason
        table.add_row(detector, told)
    return table


def by_detector(found: Inspection) -> dict[str, dict[str, Evidence]]:
    """The evidence the other way round: by detector, then by model."""
    names = dict.fromkeys(name for held in found.evidence.values() for name in held)
    return {
        name: {model: held[name] for model, held in found.evidence.items() if name in held}
        for name in names
    }


def pointed(evidence: Evidence) -> str:
    """The suspected classes; in brackets those of the paper's rule alone."""
    if evidence.suspected:
        return ", ".join(evidence.suspected)
    usual = evidence.reference.classes if evidence.reference else ()
    return f"({', '.join(usual)})" if usual else DASH


def rule(found: Rule | None) -> str:
    """Such as `MAD index 4.10 > 3.82`; beyond the threshold there is a sign."""
    if found is None:
        return DASH
    opposite = {">": "≤", "<=": ">"}
    sign = found.sign.replace("<=", "≤") if found.flagged else opposite[found.sign]
    value = f"{found.value:.3g}" if abs(found.value) < 100 else f"{found.value:.0f}"
    return f"{found.name} {value} {sign} {found.threshold:.3g}"


def change_table(found: Inspection) -> Table:
    """What purification, and fine-tuning of the same effort, did to the model."""
    note = "agreement, divergence (nats) and calibration error on clean test images"
    table = Table(title="Against the victim", caption=note, title_justify="left")
    for name in ("model", "same answers %", "drift of weights", "divergence"):
        table.add_column(name, justify="left" if name == "model" else "right")
    table.add_column("calibration error %", justify="right")
    table.add_column("classes that changed most, ACC %", overflow="fold")
    for name, change in found.changes.items():
        table.add_row(
            name,
            percent(change.agreement, 1),
            DASH if change.drift is None else f"{change.drift:.3f}",
            f"{change.divergence:.3f}",
            f"{percent(change.calibration[0], 1)} → {percent(change.calibration[1], 1)}",
            moved(change),
        )
    if found.sham is not None:
        scores = ", ".join(f"{one.upper()} {rate(found.sham, one, 1)} %" for one in ("acc", "asr"))
        table.caption = f"{note}; sham is plain fine-tuning of the defense's effort: {scores}"
    return table


def moved(change: Change, most: int = 3) -> str:
    """The classes whose accuracy changed most."""
    gaps = sorted(change.by_class.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
    told = [f"{name} {percent(a, 0)} → {percent(b, 0)}" for name, (a, b) in gaps[:most] if a != b]
    return ", ".join(told) or DASH


def planted_table(record: Record, found: Inspection) -> Table:
    """The planted controls, before and after the purification."""
    note = (
        "Known backdoors, planted by fine-tuning into copies of the victim. What the defense does "
        "to them it need not do to another trigger, or to one that was trained in."
    )
    table = Table(title=f"Controls: {run_title(record)}", caption=note, title_justify="left")
    for name in ("planted", "target", "how"):
        table.add_column(name)
    for name in ("ACC %", "ASR %", "95 % of it", "of the victim itself"):
        table.add_column(name, justify="right")
    for name, plant in found.planted.items():
        table.add_row(name, plant.target, how(plant), *planted_rates(plant))
    return table


def how(plant: Planted) -> str:
    """Such as `80 steps at 0.002`, or that it was not learnt."""
    last = plant.tried[-1]
    if not plant.learnt:
        return f"not learnt on {len(plant.tried)} rungs: nothing can be told"
    stronger = ", stronger" if last["strength"] else ""
    return f"{last['steps']} steps at {last['lr']:g}{stronger}"


def planted_rates(plant: Planted) -> tuple[str, str, str, str]:
    """ACC, ASR, its interval, and ASR without the plant; `before → after` where purified."""
    shown = []
    for name in ("acc", "asr"):
        after = "" if plant.after is None else f" → {rate(plant.after, name, 1)}"
        shown.append(f"{rate(plant.before, name, 1)}{after}")
    low, high = plant.interval or (None, None)
    interval = f"{percent(low, 1)} to {percent(high, 1)}"
    return shown[0], shown[1], interval, percent(plant.unplanted, 1)
