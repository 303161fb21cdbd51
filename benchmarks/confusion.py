"""What a clean model makes of a victim's triggered images: ASR that is no backdoor's."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from backdoor_lab import configuration
from backdoor_lab.configuration import CONF
from backdoor_lab.evaluation import Examination, evaluate
from backdoor_lab.parts import Parts
from backdoor_lab.victims import load_victim

FILE = "clean_asr.json"


def clean_asr(file: Path, clean: Path, victims: Path) -> float | None:
    """ASR in [0, 1] that a clean model reaches on the triggered test images of another run.

    It lies in `clean_asr.json` beside the result afterwards, and is measured again only where the
    result or the clean model is newer.

    Args:
        file: `result.json` of the run.
        clean: folder of the clean victim: same data, model, recipe and seed.
        victims: folder of the store.
    """
    kept = file.with_name(FILE)
    made_from = (file, clean / "model.safetensors")
    newest = max(one.stat().st_mtime for one in made_from if one.exists())
    if not kept.exists() or kept.stat().st_mtime < newest:
        kept.write_text(json.dumps(measure(json.loads(file.read_text()), clean, victims)))
    known: float | None = json.loads(kept.read_text())
    return known


def measure(result: dict[str, Any], clean: Path, victims: Path) -> float | None:
    """Compose the run again, take its victim's trigger, and ask the clean model."""
    configuration.register()
    overrides = shlex.split(result["command"])[2:]  # python run.py
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides)
    parts = Parts.of(cfg)
    data = parts.dataset.load()
    parts.attack.attach(data.spec, parts.recipe, int(cfg.seed))
    model = parts.model.build(data.spec, int(cfg.seed))
    attack = parts.attack.to(parts.engine.device)
    victim = load_victim(victims / result["victim_folder"], model, attack, cached=True)
    exam = Examination.of(data.test, victim.attack)
    model.load_state_dict(load_file(clean / "model.safetensors"))
    return evaluate(model, exam, parts.engine).asr
