"""How a yaml reads values that depend on data set, protocol or method."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config.facts import FACTS, fact
from backdoor_lab.config.places import CONF
from backdoor_lab.errors import method_name

TUNING = ("epochs", "lr", "batch_size", "momentum")  # a defense that fine-tunes by SGD has them all


def value_for(key: str, default: Any, *, _root_: DictConfig) -> Any:
    """`values_for.<method>.<key>` of the protocol or data set, else the method's own default."""
    found = OmegaConf.select(_root_, f"values_for.{key}", default=None)
    return as_node(default) if found is None else found


def for_dataset(values: dict[str, Any], default: Any, *, _root_: DictConfig) -> Any:
    """The value of the data set, for protocols whose papers set one by data set; else `default`."""
    return as_node(values.get(_root_.dataset.name, default))


def for_attack(values: dict[str, Any], default: Any, *, _root_: DictConfig) -> Any:
    """The value of the attack, or else of the one inside it; else `default`."""
    node = _root_.attack
    while node is not None:
        name = method_name(node._target_)
        if name in values:
            return as_node(values[name])
        node = node.get("inner")
    return as_node(default)


def by_ratio(values: dict[float, Any], default: Any, *, _root_: DictConfig) -> Any:
    """The value of the largest share that `aux.ratio` reaches, or else of the smallest.

    `default` where the size of the auxiliary set is no share.
    """
    ratio = _root_.aux.ratio
    if ratio is None or _root_.aux.size is not None:
        return as_node(default)
    reached = [share for share in values if share <= ratio]
    return as_node(values[max(reached) if reached else min(values)])


def setting_of(defense: str, key: str, default: Any = None, *, _root_: DictConfig) -> Any:
    """What the yaml of another defense says to a key, here; `default` where it says nothing."""
    found = OmegaConf.select(OmegaConf.create(said_by(defense), parent=_root_), key)
    return as_node(default) if found is None else found


@cache
def said_by(defense: str) -> dict[str, Any]:
    """What a defense's yaml says, over those that its `defaults` name; nothing where none is."""
    file = CONF / "defense" / f"{defense}.yaml"
    if not file.is_file():
        return {}
    held: Any = OmegaConf.to_container(OmegaConf.load(file))
    bases = [said_by(base) for base in held.pop("defaults", []) if base != "_self_"]
    said: Any = OmegaConf.to_container(OmegaConf.merge(*bases, held))
    return cast(dict[str, Any], said)


def tuning_of(key: str, default: Any = None, *, _root_: DictConfig) -> Any:
    """A setting of the run's first defense that fine-tunes by SGD; where none does, that of ft."""
    for link in (_root_.defense, _root_.then):
        if link is not None and all(link.get(one) is not None for one in TUNING):
            found = link.get(key)
            return as_node(default) if found is None else found
    return setting_of("ft", key, default, _root_=_root_)


def in_proportion(pixels: int, *, _root_: DictConfig) -> int:
    """As many pixels on the images of the data set as `pixels` are on 32."""
    return round(pixels * _root_.dataset.image_size / 32)


def every_detector(*, _root_: DictConfig) -> DictConfig:
    """Every detector by name, with the values that it has here; panels of several are left out."""
    node = OmegaConf.create(detectors(), parent=_root_)
    return cast(DictConfig, OmegaConf.create(OmegaConf.to_container(node, resolve=True)))


@cache
def detectors() -> dict[str, Any]:
    """What the yamls of the detectors say; a panel of several states no facts."""
    files = sorted((CONF / "detector").glob("[!_]*.yaml"))
    found: dict[str, Any] = {one.stem: OmegaConf.to_container(OmegaConf.load(one)) for one in files}
    return {name: node for name, node in found.items() if FACTS in node}


def by_fact(name: str, values: dict[str, Any], default: Any, *, _root_: DictConfig) -> Any:
    """The value that stands for a fact of the attack, or else of the one inside it."""
    return as_node(values.get(fact(_root_.attack, name), default))


def as_node(value: Any) -> Any:
    """A list as OmegaConf wants one from a resolver; anything else as it is."""
    return OmegaConf.create(value) if isinstance(value, list) else value
