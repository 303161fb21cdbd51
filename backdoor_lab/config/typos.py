"""Slips of the finger: names and keys that exist nowhere; asked before Hydra."""

from __future__ import annotations

from collections.abc import Sequence, Set
from difflib import get_close_matches
from functools import cache
from typing import Any

from hydra.core.override_parser.types import OverrideType
from omegaconf import OmegaConf

from backdoor_lab.config.choices import defaults, folder_of, names, parsed
from backdoor_lab.config.places import CONF
from backdoor_lab.errors import ConfigError

OF_YOURS = ("--config-dir", "-cd", "hydra.searchpath")  # folders of yamls that are not looked at
GRID = ("-m", "--multirun", "hydra.mode=MULTIRUN")


def refuse_typos(arguments: Sequence[str]) -> None:
    """Refuse names and keys that no yaml has, and several choices where no grid is asked for.

    Raises:
        ConfigError: names what was typed, and what comes near it.
    """
    if not any(argument in GRID for argument in arguments):
        refuse_several(arguments)
    if any(argument.startswith(OF_YOURS) for argument in arguments):
        return
    for override in parsed(arguments):
        group, _, key = override.key_or_group.partition(".")
        if override.type is not OverrideType.CHANGE or group not in defaults():
            continue
        value, folder = override.value(), CONF / folder_of(group)
        if not key and isinstance(value, str) and not (folder / f"{value}.yaml").is_file():
            raise ConfigError(f"{override.input_line} is no {group}; allowed: {names(group)}")
        if key and "." not in key and key not in keys(group):
            raise ConfigError(
                f"{group}.{key} is a key of no {group}; allowed: {near(key, keys(group))}"
            )


def refuse_several(arguments: Sequence[str]) -> None:
    """Refuse `attack=wanet,badnets` in a run of its own."""
    for argument in arguments:
        if len(list(parsed([argument]))) > 1:
            raise ConfigError(f"{argument} are several; allowed: one, or a grid: -m {argument}")


@cache
def keys(group: str) -> frozenset[str]:
    """Every key that a yaml of a group has, or puts a choice of another group at."""
    found: set[str] = set()
    for file in (CONF / folder_of(group)).glob("*.yaml"):
        held: Any = OmegaConf.to_container(OmegaConf.load(file))
        own = held.get(group)
        found |= {*held, *(own if isinstance(own, dict) else ())}
        chosen = [one for one in held.get("defaults", []) if isinstance(one, dict)]
        found |= {name.partition("@")[2] for one in chosen for name in one}
    return frozenset(found - {"", "defaults"})


def near(name: str, known: Set[str]) -> str:
    """The known names that come nearest to `name`."""
    return ", ".join(get_close_matches(name, sorted(known), n=5, cutoff=0.3)) or "those of --help"
