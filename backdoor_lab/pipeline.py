"""The recipe of a run: data, victim, auxiliary set, purification, evaluation, report."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from backdoor_lab.configuration import VICTIM_GROUPS, identity
from backdoor_lab.datasets import Data
from backdoor_lab.evaluation import Examination, evaluate
from backdoor_lab.parts import Parts
from backdoor_lab.reports.result import Names, peak_memory_mb, write_result
from backdoor_lab.reports.run_pictures import draw_pictures
from backdoor_lab.store import Store, Workshop, plain
from backdoor_lab.victims import clean_model, obtain_victim


def run(cfg: DictConfig, names: Names, folder: Path) -> dict[str, Any]:
    """Make or find the victim, purify it, judge both, and leave `result.json` in `folder`."""
    parts = Parts.of(cfg)
    engine, seed, code = parts.engine, int(cfg.seed), parts.code()
    config = OmegaConf.to_container(cfg, resolve=True)
    with parts.tracker.run(
        names.title, names.group, "purify", names.tags, {"config": config}, folder
    ) as tracker:
        engine.logger = tracker.lightning_logger
        clock = Clock()
        data = parts.dataset.load()
        shop = workshop_of(cfg, parts, names, data)
        parts.check_data(data, seed)
        victim = obtain_victim(shop, parts.attack)
        clock.lap("victim")
        aux = parts.aux.draw(data, victim.poisoned, seed)
        aux = parts.calibration.calibrate(victim.model, aux, engine, seed)
        clock.lap("calibration")
        parts.defense.attach(engine, data.spec, seed)
        purified = parts.defense.purify(deepcopy(victim.model), aux)
        clock.lap("purify")
        exam = Examination.of(data.test, victim.attack)
        before = evaluate(victim.model, exam, engine)
        after = evaluate(purified, exam, engine)
        clock.lap("evaluate")
        spent = {"victim": victim.seconds, "victim_cached": victim.cached, "total": clock.total()}
        details = (victim.attack.details, aux.details, parts.defense.details)
        result = {
            **names.choices,
            "seed": seed,
            "victim": asdict(before),
            "purified": {**asdict(after), "der": after.der(before)},
            "seconds": {**clock.laps, **spent},
            "peak_memory_mb": peak_memory_mb(engine.device),
            "trigger": exam.stealth(),
            "details": dict(zip(("attack", "aux", "defense"), details, strict=True)),
            "victim_folder": victim.folder.name,
            "code": code,
        }
        if cfg.pictures:
            tracker.images(draw_pictures(folder, result, victim.model, purified, exam, engine))
        if cfg.keep_model:
            save_file(plain(purified.state_dict()), folder / "purified.safetensors")
        result = write_result(folder, result, names)
        tracker.summary({key: result[key] for key in ("victim", "purified", "seconds")})
    return result


def workshop_of(cfg: DictConfig, parts: Parts, names: Names, data: Data) -> Workshop:
    """What the attack of a run works with; the attack is attached to the data."""
    parts.attack.attach(data.spec, parts.recipe, int(cfg.seed))
    chosen = identity(cfg, VICTIM_GROUPS)
    store = Store(Path(cfg.paths.outputs) / "victims")
    means = (parts.recipe, parts.model, parts.engine, store)
    return Workshop(data, *means, names.maker, chosen, clean_model)


def export(cfg: DictConfig, names: Names) -> Path:
    """Make or find the victim and write its triggered images; no defense runs.

    Returns:
        The folder with the images.
    """
    parts = Parts.of(cfg)
    assert parts.export is not None
    data = parts.dataset.load()
    shop = workshop_of(cfg, parts, names, data)
    victim = obtain_victim(shop, parts.attack)
    victim.attack.prepare(shop)  # a victim found in the store brings its trigger alone
    folder = Path(cfg.paths.outputs) / "exports" / victim.folder.name
    return parts.export.write(folder, data, victim)


class Clock:
    """Wall seconds between laps."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Name what was done since the last lap."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def total(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.start
