"""What Hydra must know before it composes: the keys, the group `aux`, the resolvers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from backdoor_lab.config.catalogue import catalogue
from backdoor_lab.config.hardware import launcher_here
from backdoor_lab.config.names import run_name
from backdoor_lab.config.places import CONF, ROOT
from backdoor_lab.config.resolvers import (
    by_fact,
    by_ratio,
    every_detector,
    for_attack,
    for_dataset,
    in_proportion,
    setting_of,
    tuning_of,
    value_for,
)


@dataclass
class Paths:
    """Folders; what the user supplies stands here, outside the swept groups."""

    data: str = MISSING
    outputs: str = MISSING
    cache: str = MISSING
    external: str | None = None
    synthetic: str | None = None
    suspected: str | None = None


@dataclass
class Schema:
    """The top level; a key that is not here is refused."""

    seed: int = 0
    defender_seed: int | None = None
    force: bool = False
    pictures: bool = True
    views: bool = False
    keep_model: bool = True
    paths: Paths = field(default_factory=Paths)
    values_for: dict[str, Any] = field(default_factory=dict)
    protocol: Any = None
    size: Any = None
    table: Any = None
    task: Any = None
    victim: Any = None
    dataset: Any = None
    model: Any = None
    recipe: Any = None
    attack: Any = None
    defense: Any = None
    then: Any = None
    aux: Any = None
    calibration: Any = None
    evaluation: Any = None
    detector: Any = None
    trainer: Any = None
    logger: Any = None
    export: Any = None


def register() -> None:
    """Tell Hydra the schema, the group `aux` (files in conf/aux_data) and the resolvers."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Schema)
    for file in sorted((CONF / "aux_data").glob("*.yaml")):
        store.store(group="aux", name=file.stem, node=OmegaConf.load(file), provider=file.name)
    of_values = (value_for, for_dataset, for_attack, by_fact, by_ratio, in_proportion)
    of_methods = (setting_of, tuning_of, every_detector)
    for resolver in (*of_values, *of_methods, run_name, catalogue, launcher_here):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    OmegaConf.register_new_resolver("project", lambda: str(ROOT), replace=True)
