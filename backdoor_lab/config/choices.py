"""What the command line may choose of a group; asked before Hydra, which is silent or too loud."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from backdoor_lab.config.places import CONF
from backdoor_lab.errors import ConfigError


def refuse_choices(arguments: Sequence[str]) -> None:
    """Refuse `attack=null`, `~attack` and `attack=[wanet,badnets]`, of which Hydra keeps the last.

    Raises:
        ConfigError: names the group, and what may be chosen.
    """
    for override in parsed(arguments):
        group = override.key_or_group
        if not (CONF / folder_of(group)).is_dir():
            continue
        node = f"{group}@{override.package}" if override.package else group
        optional = node in defaults() and defaults()[node] is None
        if override.is_delete():
            if not optional:
                raise ConfigError(f"~{node} leaves no {node}; allowed: one of {names(group)}")
            continue
        value = override.value()
        if isinstance(value, list):
            several = ",".join(map(str, value))
            raise ConfigError(
                f"{node}=[{several}] is a list; allowed: one name, or a grid: -m {node}={several}"
            )
        if not isinstance(value, str) and not (value is None and optional):
            raise ConfigError(
                f"{override.input_line} chooses nothing; allowed: one of {names(group)}"
            )


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
