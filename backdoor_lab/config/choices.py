"""What may be typed of a group; asked before Hydra, which is silent or too loud."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from difflib import get_close_matches
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf

from backdoor_lab.config.places import CONF
from backdoor_lab.errors import ConfigError

OF_YOURS = ("--config-dir", "-cd", "hydra.searchpath")  # folders of yamls that are not looked at
GRID = ("-m", "--multirun", "hydra.mode=MULTIRUN")


def refuse_choices(arguments: Sequence[str]) -> None:
    """Refuse `attack=null`, `~attack` and `attack=[wanet,badnets]`, of which Hydra keeps the last.

    Raises:
        ConfigError: names the group, and what may be chosen.
    """
    for override in parsed(arguments):
        group = override.key_or_group
        if not (CONF / folder_of(group)).is_dir():
            continue
        place = f"{group}@{override.package}" if override.package else group
        optional = place in defaults() and defaults()[place] is None
        if override.is_delete():
            if not optional:
                raise ConfigError(f"~{place} leaves no {place}; allowed: one of {names(group)}")
            continue
        value = override.value()
        if isinstance(value, list):
            several = ",".join(map(str, value))
            raise ConfigError(
                f"{place}=[{several}] is a list; allowed: one name, or a grid: -m {place}={several}"
            )
        if not isinstance(value, str) and not (value is None and optional):
            raise ConfigError(
                f"{override.input_line} chooses nothing; allowed: one of {names(group)}"
            )


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


def parsed(arguments: Sequence[str]) -> Iterator[Override]:
    """The overrides among `arguments`, each choice of a sweep as one; Hydra tells the others."""
    parser = OverridesParser.create()
    for argument in arguments:
        try:
            override = parser.parse_override(argument)
            choices = [override]
            if override.is_sweep_override():
                key = override.get_key_element()
                texts = override.sweep_string_iterator()
                choices = [parser.parse_override(f"{key}={text}") for text in texts]
        except HydraException:
            continue
        yield from choices


@cache
def defaults() -> dict[str, str | None]:
    """What conf/config.yaml chooses, by group."""
    whole: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    chosen = [one for one in whole["defaults"] if isinstance(one, dict)]
    return {key: name for one in chosen for key, name in one.items() if " " not in key}


def folder_of(group: str) -> str:
    """The folder of a group's yamls; `aux` is no legal file name on Windows."""
    return "aux_data" if group == "aux" else group


def names(group: str) -> str:
    """All that may be chosen of a group."""
    return ", ".join(sorted(file.stem for file in (CONF / folder_of(group)).glob("[!_]*.yaml")))


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
