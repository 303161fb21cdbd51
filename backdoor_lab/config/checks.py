"""Keys that nothing reads are refused, wherever they came from."""

from __future__ import annotations

import re
from dataclasses import fields
from difflib import get_close_matches
from functools import cache

from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config.places import CONF
from backdoor_lab.config.schema import Schema
from backdoor_lab.errors import ConfigError

READ = re.compile(r"\$\{value_for:([\w.]+),")


def refuse_unknown(cfg: DictConfig) -> None:
    """Refuse keys at the top level, and values for methods, that nothing reads.

    Raises:
        ConfigError: names the key and what comes near it.
    """
    known = {"hydra"} | {field.name for field in fields(Schema)}
    for key in map(str, cfg):
        if key not in known:
            raise ConfigError(f"{key} is no key; allowed: {near(key, known)}")
    read = values_read() | set(READ.findall(OmegaConf.to_yaml(cfg)))
    for method, values in cfg.values_for.items():
        for key in values or {}:
            name = f"{method}.{key}"
            if name not in read:
                raise ConfigError(
                    f"values_for.{name} is read by nothing; allowed: {near(name, read)}"
                )


@cache
def values_read() -> frozenset[str]:
    """Every `<method>.<key>` that a yaml of this project reads."""
    texts = (file.read_text() for file in sorted(CONF.rglob("*.yaml")))
    return frozenset(name for text in texts for name in READ.findall(text))


def near(name: str, known: set[str] | frozenset[str]) -> str:
    """The known names that come nearest to `name`."""
    return ", ".join(get_close_matches(name, sorted(known), n=5, cutoff=0.3)) or "those of --help"
