"""What a clean model makes of a victim's triggered images: ASR that is no backdoor's."""

from __future__ import annotations

import shlex
from pathlib import Path

from safetensors.torch import load_file

from backdoor_lab.evaluation.examination import Examination, evaluate
from backdoor_lab.records import Record
from backdoor_lab.run.parts import Parts
from backdoor_lab.store import Notes
from backdoor_lab.victims.folder import load_victim
from benchmarks.common import composed


def clean_asr(record: Record, clean: Record, outputs: Path) -> float | None:
    """ASR in [0, 1] that a clean victim reaches on the triggered test images of another.

    Measured once for two victims and the code and data behind them, and noted in `outputs`.
    """
    asked = {
        "made_from": str(record.made_from),
        "victim": record.victim_name,
        "clean": clean.victim_name,
    }
    notes = Notes(outputs)
    known: float | None = notes.read("clean_asr", asked)
    if known is None:
        known = measure(record, clean, outputs / "victims")
        notes.write("clean_asr", asked, known)
    return known


def measure(record: Record, clean: Record, victims: Path) -> float | None:
    """Compose the run again, take its victim's trigger, and ask the clean model."""
    parts = Parts.of(composed(*shlex.split(record.command)[2:]))  # python run.py
    data = parts.dataset.load()
    parts.attach(data, record.seed)
    model = parts.model.build(data.spec, record.seed)
    attack = parts.attack.to(parts.engine.device)
    victim = load_victim(victims / str(record.victim_name), model, attack, cached=True)
    exam = Examination.of(data, victim.attack)
    model.load_state_dict(load_file(victims / str(clean.victim_name) / "model.safetensors"))
    return evaluate(model, exam, parts.engine).asr
