"""What a yaml states about its method under `facts:`: read by whoever asks for a `fact`.

Facts are no parameters of a constructor and no part of an identity.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

FACTS = "facts"


def without_facts(value: Any) -> Any:
    """A plain config without the facts of its nodes, at any depth."""
    if isinstance(value, dict):
        return {key: without_facts(one) for key, one in value.items() if key != FACTS}
    if isinstance(value, list):
        return [without_facts(one) for one in value]
    return value


def fact(node: DictConfig | None, name: str, default: Any = None) -> Any:
    """A fact of a method, or else of the one inside it; else `default`."""
    while node is not None:
        found = (node.get(FACTS) or {}).get(name)
        if found is not None:
            return found
        node = node.get("inner")
    return default


def looks(cfg: DictConfig) -> bool:
    """Whether the task only looks at what runs have left."""
    return bool(fact(cfg.task, "looks"))
