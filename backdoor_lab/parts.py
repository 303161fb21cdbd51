"""The parts of a run, built from the config and checked against each other before data loads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from backdoor_lab.attacks import Attack
from backdoor_lab.aux_data import AuxiliaryKind
from backdoor_lab.calibration import Calibration
from backdoor_lab.datasets import Data, Dataset
from backdoor_lab.defenses import Defense
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import ModelFactory
from backdoor_lab.reports.export import PoisonedImages
from backdoor_lab.store import code_digest
from backdoor_lab.tracking import Tracker
from backdoor_lab.training import Engine, Recipe


@dataclass(frozen=True)
class Parts:
    """Everything that a run is made of."""

    dataset: Dataset
    model: ModelFactory
    recipe: Recipe
    attack: Attack
    aux: AuxiliaryKind
    calibration: Calibration
    defense: Defense
    engine: Engine
    tracker: Tracker
    export: PoisonedImages | None

    @classmethod
    def of(cls, cfg: DictConfig) -> Parts:
        """Build and check all parts.

        Raises:
            ConfigError: a value is out of its range, or two choices make no sense together.
        """
        if cfg.seed < 0:
            raise ConfigError(f"seed={cfg.seed} is negative; allowed: 0 or more")
        names = ("dataset", "model", "recipe", "attack", "aux", "calibration", "defense", "export")
        built = {name: build(cfg, name) for name in names}
        parts = cls(engine=build(cfg, "trainer"), tracker=build(cfg, "logger"), **built)
        parts.check()
        return parts

    def check(self) -> None:
        """Refuse combinations that cannot work."""
        shape = (len(self.dataset.mean), self.dataset.image_size, self.dataset.image_size)
        self.dataset.check()
        self.model.check()
        self.attack.check(shape, self.dataset.num_classes)
        if self.export is None:
            self.aux.check()
            self.defense.check(self.aux.holds_images, self.aux.labelled)
        elif self.attack.harmless:
            raise ConfigError("export=poisoned, but attack=none has no triggered images")

    def check_data(self, data: Data, seed: int) -> None:
        """Refuse, before anything trains, what cannot work with the loaded data.

        Raises:
            ConfigError: an impossible poison rate or auxiliary set, or a model without what the
                defense works on.
        """
        self.attack.choose(data.train.labels)
        self.aux.foresee(data)
        self.defense.check_model(self.model.build(data.spec, seed))

    def code(self) -> str:
        """A digest of the code behind all methods of the run."""
        return code_digest(self.attack, self.model, self.aux, self.calibration, self.defense)


def build(cfg: DictConfig, key: str) -> Any:
    """Instantiate one group; whatever is wrong with its values becomes one sentence."""
    try:
        return instantiate(cfg[key], _convert_="all")
    except (InstantiationException, ValidationError, OmegaConfBaseException) as error:
        raise ConfigError(sentence(key, error)) from None


def sentence(key: str, error: BaseException) -> str:
    """The cause of a failed instantiation in one sentence that names the key."""
    if nested := re.search(r"full_key: (\S+)", str(error)):
        key = nested[1]  # what lies below the group, such as attack.inner
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError):
            return str(cause)
        if isinstance(cause, ValidationError):
            first = cause.errors()[0]
            where = ".".join([key, *(str(part) for part in first["loc"])])
            return f"{where}={first['input']!r} does not fit: {first['msg']}"
        cause = cause.__cause__ or cause.__context__
    return f"{key}: {str(error).splitlines()[0]}"
