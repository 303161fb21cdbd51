"""What the whole config must be: known keys, a choice of each group, finite numbers, names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config.choices import defaults, names
from backdoor_lab.config.facts import fact
from backdoor_lab.config.places import CONF
from backdoor_lab.config.schema import Schema
from backdoor_lab.config.typos import near
from backdoor_lab.errors import ConfigError

READ = re.compile(r"\$\{value_for:([\w.]+),")
PRESETS = ("protocol", "experiment", "size")  # hold values for others, build nothing
MOST_PIXELS = 4096  # of a side: more than any classifier takes
NAME = re.compile(r"\w[\w.+ -]{0,99}")


def refuse(cfg: DictConfig) -> None:
    """Refuse what can be told without building anything.

    Raises:
        ConfigError: names the key, what was given and what is allowed.
    """
    refuse_unknown(cfg)
    refuse_missing(cfg)
    refuse_undecided(cfg)
    refuse_paths(cfg)
    refuse_seeds(cfg)
    for group in (group for group in defaults() if OmegaConf.is_config(cfg.get(group))):
        for key, value in numbers(OmegaConf.to_container(cfg[group], resolve=True), group):
            if not math.isfinite(value):
                raise ConfigError(f"{key}={value} is not finite; allowed: finite numbers")
    if isinstance(size := cfg.dataset.get("image_size"), int) and size > MOST_PIXELS:
        raise ConfigError(f"dataset.image_size={size} is too large; allowed: up to {MOST_PIXELS}")
    if not NAME.fullmatch(str(cfg.dataset.name)):
        raise ConfigError(
            f"dataset.name={cfg.dataset.name!r} is no name of a folder; allowed: letters, digits "
            "and . _ + - (not first)"
        )


def refuse_seeds(cfg: DictConfig) -> None:
    """Refuse negative seeds: they are slips, and read badly in the names of folders."""
    for key, value in {"seed": cfg.seed, "defender_seed": cfg.defender_seed}.items():
        if value is not None and value < 0:
            raise ConfigError(f"{key}={value} is negative; allowed: 0 or more")


def refuse_missing(cfg: DictConfig) -> None:
    """Refuse a group without a choice, and a node that is none."""
    for group, name in defaults().items():
        held = None if "@" in group else cfg.get(group)
        if (held is None and name is None) or "@" in group or group in PRESETS:
            continue
        if not isinstance(held, DictConfig):
            raise ConfigError(f"{group}={held} builds nothing; allowed: one of {names(group)}")
        if not isinstance(target := held.get("_target_"), str) or "." not in target:
            raise ConfigError(f"{group}._target_={target} is no class; allowed: those of the yamls")


def refuse_undecided(cfg: DictConfig) -> None:
    """Refuse a task that does not say what decides its result: other runs would be taken for it."""
    if fact(cfg.task, "groups") is None:
        raise ConfigError(
            "task.facts.groups=null does not say what decides a result; allowed: the groups that "
            "do beside the victim's, such as [defense,aux], or []"
        )


def refuse_paths(cfg: DictConfig) -> None:
    """Refuse an empty path, and a `~` that would become the name of a folder here."""
    for name, path in cfg.paths.items():
        if path is not None and not str(path).strip():
            raise ConfigError(f"paths.{name}='' is empty; allowed: a folder")
    places = {f"paths.{name}": path for name, path in cfg.paths.items()}
    for key, path in {**places, "dataset.root": cfg.dataset.get("root")}.items():
        if str(path).startswith("~"):
            raise ConfigError(
                f"{key}={path} begins with ~, which no shell expanded; allowed: a path without ~"
            )


def numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """Every float below `value`, by its key."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from numbers(one, f"{key}.{name}")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from numbers(one, f"{key}.{index}")
    elif isinstance(value, float):
        yield key, value


def refuse_unknown(cfg: DictConfig) -> None:
    """Refuse keys at the top level, and values for methods, that nothing reads.

    Raises:
        ConfigError: names the key and what comes near it.
    """
    known = {"hydra"} | {field.name for field in fields(Schema)}
    for key in map(str, cfg):
        if key not in known:
            raise ConfigError(f"{key} is no key; allowed: {near(key, known)}")
    for method, values in cfg.values_for.items():
        for key in values or {}:
            name = f"{method}.{key}"
            if name in values_read():
                continue
            read = values_read() | set(READ.findall(OmegaConf.to_yaml(cfg)))  # this takes long
            if name not in read:
                raise ConfigError(
                    f"values_for.{name} is read by nothing; allowed: {near(name, read)}"
                )


@cache
def values_read() -> frozenset[str]:
    """Every `<method>.<key>` that a yaml of this project reads."""
    texts = (file.read_text() for file in sorted(CONF.rglob("*.yaml")))
    return frozenset(name for text in texts for name in READ.findall(text))
