"""One run in the making: its parts, its names, its folder, its clock."""

from __future__ import annotations

import gc
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config.identity import run_identity, victim_identity
from backdoor_lab.config.versions import versions
from backdoor_lab.datasets import Data
from backdoor_lab.device import kind_of
from backdoor_lab.records import MadeFrom, Record, Spent
from backdoor_lab.run.finished import CODE, State, asked_of, note_fingerprint, state_of
from backdoor_lab.run.names import Names
from backdoor_lab.run.neighbours import warn_of_crowd
from backdoor_lab.run.parts import Parts
from backdoor_lab.store import Store
from backdoor_lab.tracking import Tracker
from backdoor_lab.victims import Victim, Workshop

log = logging.getLogger(__name__)


@dataclass
class Job:
    """What a task works with."""

    cfg: DictConfig
    parts: Parts
    names: Names
    folder: Path
    tracker: Tracker
    laps: dict[str, float] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        """The clock starts, and the code is what it is now."""
        self.start = self.last = time.perf_counter()
        self.code = CODE.of(run_identity(self.cfg))

    @property
    def seed(self) -> int:
        return int(self.cfg.seed)

    @property
    def defender_seed(self) -> int:
        """Of all that the defender draws, which derives its seeds from it by purpose."""
        given = self.cfg.defender_seed
        return self.seed if given is None else int(given)

    @property
    def pictures(self) -> bool:
        return bool(self.cfg.pictures)

    @property
    def views(self) -> bool:
        return bool(self.cfg.views)

    @property
    def keep_model(self) -> bool:
        return bool(self.cfg.keep_model)

    def load(self) -> Data:
        """The data set, read and split; its fingerprint is noted for the next start."""
        asked = asked_of(self.cfg)
        data = self.parts.dataset.load()
        note_fingerprint(self.cfg, asked, data.fingerprint)
        self.fingerprint = data.fingerprint
        return data

    def workshop(self, data: Data) -> Workshop:
        """What the attack works with."""
        chosen = {k: v for k, v in victim_identity(self.cfg).items() if k != "root"}
        store = Store(Path(self.cfg.paths.outputs) / "victims")
        tools = (self.parts.recipe, self.parts.model, self.parts.engine, store, CODE)
        return Workshop(data, *tools, self.names.maker, chosen)

    def lap(self, name: str) -> None:
        """Name what was done since the last lap."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def spent(self, victim: Victim, memory_mb: float | None = None) -> Spent:
        """Seconds so far, and the defense's memory."""
        seconds = {**self.laps, "total": time.perf_counter() - self.start}
        return Spent(seconds, memory_mb, victim.seconds, victim.cached)

    def record(self, victim: Victim) -> Record:
        """All of a record but what came of the run."""
        names = self.names
        return Record(
            names.task,
            names.choices,
            self.seed,
            names.command,
            made_from=MadeFrom(self.code, self.fingerprint),
            victim_name=victim.name,
            device=kind_of(self.parts.engine.device),
            precision=self.parts.engine.precision,
            versions=versions(),
        )

    def details(self, victim: Victim, data: Data, **more: Any) -> dict[str, Any]:
        """What the victim, the data and the attack have to report, and `more`."""
        known = {"victim": victim.facts, "test": data.rests_on, "attack": victim.details}
        return {**known, **more}

    def show(self, pictures: Mapping[str, Path]) -> None:
        """Hand pictures to the tracker."""
        self.tracker.images(pictures)


def perform(cfg: DictConfig, names: Names, folder: Path) -> Record:
    """Build the parts, and let the task do its work under the eyes of the tracker."""
    quiet_libraries()
    try:
        parts = Parts.of(cfg)
        if parts.engine.device.type == "cpu":
            warn_of_crowd()
        record, state = state_of(cfg, folder)
        if state is State.UNTOLD:
            asked = asked_of(cfg)
            note_fingerprint(cfg, asked, parts.dataset.load().fingerprint)
            record, state = state_of(cfg, folder)
        if record is not None and state is State.CURRENT:
            return record
        if state is State.STALE:
            log.info("the code or the data behind this run have changed since: it runs again")
        chosen = {**names.choices, "seed": names.seed}
        settings = {"choices": chosen, "config": OmegaConf.to_container(cfg, resolve=True)}
        with parts.tracker.run(
            names.title, names.group, names.task, names.tags, settings, folder
        ) as tracker:
            parts.engine.logger = tracker.lightning_logger
            job = Job(cfg, parts, names, folder, tracker)
            unfinished = record if state is State.INCOMPLETE else None
            record = parts.task.complete(job, unfinished) if unfinished else parts.task.run(job)
            record.write(folder)
            tracker.summary(record.summary())
        return record
    finally:
        free_memory()


def free_memory() -> None:
    """Give back what this job held, before the next one in the same process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def quiet_libraries() -> None:
    """Silence banners and warnings that no user can act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
