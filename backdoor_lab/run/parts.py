"""The parts of a run, built from the config and checked against each other before data loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from backdoor_lab.attacks import Attack
from backdoor_lab.aux_data import AuxiliaryKind
from backdoor_lab.calibration import Calibration
from backdoor_lab.config.checks import refuse
from backdoor_lab.datasets import Data, Dataset
from backdoor_lab.defenses import Chain
from backdoor_lab.detectors import Panel
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.evaluation.relearning import Relearning
from backdoor_lab.models import ModelFactory
from backdoor_lab.run.building import build
from backdoor_lab.tasks import Task
from backdoor_lab.tracking import Tracker
from backdoor_lab.training import Engine, Recipe
from backdoor_lab.victims import VictimSource

BUILT = (
    "task", "victim", "dataset", "model", "recipe", "attack", "aux", "calibration", "evaluation",
    "detector", "export",
)  # fmt: skip
CHANNELS = 3  # every data set is read as RGB
SMALLEST = 8


@dataclass(frozen=True)
class Parts:
    """Everything that a run is made of."""

    task: Task
    victim: VictimSource
    dataset: Dataset
    model: ModelFactory
    recipe: Recipe
    attack: Attack
    defense: Chain
    aux: AuxiliaryKind
    calibration: Calibration
    evaluation: Relearning
    detector: Panel
    engine: Engine
    tracker: Tracker
    export: Any

    @classmethod
    def of(cls, cfg: DictConfig) -> Parts:
        """Check the config as a whole, then build and check all parts.

        Raises:
            ConfigError: a value is out of its range, or two choices make no sense together.
        """
        refuse(cfg)
        return cls.built(cfg)

    @classmethod
    def built(cls, cfg: DictConfig) -> Parts:
        """Build and check all parts of a config that has been checked as a whole."""
        built = {name: build(cfg, name) for name in BUILT}
        defenses = ["defense"] if cfg.then is None else ["defense", "then"]
        parts = cls(
            engine=build(cfg, "trainer"),
            tracker=build(cfg, "logger"),
            defense=Chain(tuple(build(cfg, name) for name in defenses)),
            **built,
        )
        parts.check()
        return parts

    def check(self) -> None:
        """Refuse combinations that cannot work."""
        self.check_image_size()
        self.check_normalisation()
        self.check_limits()
        if not self.aux.holds_images and self.calibration.needs_images:
            raise ConfigError(
                f"aux={spelled(self.aux)} leaves calibration={spelled(self.calibration)} nothing "
                "to calibrate; allowed: any other aux, or calibration=none"
            )
        self.dataset.check()
        shape = (CHANNELS, self.dataset.image_size, self.dataset.image_size)
        self.model.check(self.dataset.expected())
        self.attack.check(shape, self.dataset.num_classes)
        self.victim.check(self.attack, self.model)
        self.task.check(self)

    def check_limits(self) -> None:
        """Refuse limits that leave classes without an image."""
        classes = self.dataset.num_classes or 1
        limits = {"train": self.dataset.limit_train, "test": self.dataset.limit_test}
        for part, limit in limits.items():
            if limit is not None and limit < classes:
                raise ConfigError(
                    f"dataset.limit_{part}={limit} leaves classes without an image; "
                    f"allowed: {classes}, the number of classes, or more, or null"
                )

    def check_image_size(self) -> None:
        """Refuse images of which a stride leaves nothing."""
        if self.dataset.image_size < SMALLEST:
            raise ConfigError(
                f"dataset.image_size={self.dataset.image_size} leaves nothing behind a stride; "
                f"allowed: {SMALLEST} or more"
            )

    def check_normalisation(self) -> None:
        """Refuse means and deviations that are not one for each of three channels."""
        mean, std = self.dataset.mean, self.dataset.std
        for key, values in {"mean": mean, "std": std}.items():
            if len(values) != CHANNELS or (key == "std" and min(values) <= 0):
                raise ConfigError(
                    f"dataset.{key}={list(values)} does not fit; allowed: {CHANNELS} numbers, one "
                    f"a channel{', above 0' if key == 'std' else ''}"
                )

    def attach(self, data: Data, seed: int) -> None:
        """Tell the attack what the data are; refuse, before anything trains, what cannot work.

        Raises:
            ConfigError: an impossible poison rate, or data that are too few.
        """
        self.check_data(data)
        self.attack.attach(data.spec, self.recipe, seed)
        self.attack.choose(data.train.labels)
        if not self.attack.harmless and not self.attack.counted(data.test.labels).any():
            raise ConfigError(
                f"dataset.limit_test={self.dataset.limit_test} leaves no test image but those of "
                f"attack.target={self.attack.target}; allowed: a higher one, or null"
            )

    def check_data(self, data: Data) -> None:
        """Refuse data that contradict the config, or are none.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        told, found = self.dataset.num_classes, data.spec.num_classes
        if told not in (None, found):
            raise ConfigError(
                f"dataset.num_classes={told}, but the data have {found}; allowed: {found} or null"
            )
        for part, images in {"train": data.train, "test": data.test}.items():
            if not len(images):
                limit = getattr(self.dataset, f"limit_{part}")
                raise ConfigError(
                    f"dataset.limit_{part}={limit}, dataset.reserved={self.dataset.reserved} leave "
                    f"no {part} image; allowed: at least one a class, {found} and more, or null"
                )
