"""What decides a number: configuration without places, loggers and devices."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config.facts import fact, without_facts
from backdoor_lab.config.machine import precision_here
from backdoor_lab.digests import checksum, folder_digest, model_digest

VICTIM_GROUPS = ("victim", "dataset", "model", "attack", "recipe", "trainer", "seed")
PLACES = ("cache", "root")  # where things lie does not change what they are
MODEL = "path"  # the key of a stranger's
CONTENT = ("folder", MODEL)  # keys whose places stand for what lies there
LEARNING = (  # of the trainer: what changes what is learnt
    "_target_", "precision", "limit_train_batches", "fast_dev_run", "gradient_clip_val",
    "callbacks",
)  # fmt: skip


def plain_config(cfg: DictConfig, key: str) -> Any:
    """The resolved value of a key as plain Python, facts left out."""
    node = OmegaConf.select(cfg, key)
    if not OmegaConf.is_config(node):
        return node
    return without_facts(OmegaConf.to_container(node, resolve=True))


def victim_identity(cfg: DictConfig) -> dict[str, Any]:
    """All that decides a victim, the data's content excepted."""
    return identity(cfg, VICTIM_GROUPS)


def run_identity(cfg: DictConfig) -> dict[str, Any]:
    """All that decides a run: its victim, and the groups that its task reads."""
    task = OmegaConf.select(cfg, "task")
    groups = list(fact(task, "groups", []))
    if "defense" in groups:
        groups.append("then")
    return identity(cfg, (*VICTIM_GROUPS, "task", *groups))


def identity(cfg: DictConfig, groups: tuple[str, ...]) -> dict[str, Any]:
    """The resolved config of `groups`; what only says where or how fast is left out."""
    found = {group: held(plain_config(cfg, group)) for group in groups}
    if isinstance(data := found.get("dataset"), dict):
        root = data.get("root")
        found["dataset"] = {key: value for key, value in data.items() if key not in PLACES}
        found["root"] = str(Path(root).resolve()) if root else None
    if isinstance(trainer := found.get("trainer"), dict):
        kept = {key: trainer[key] for key in LEARNING if key in trainer}
        found["trainer"] = kept | {"precision": precision_here(cfg)}
    return found


def held(value: Any, key: str = "") -> Any:
    """`value` with a hash of what they hold in place of the names of files and folders."""
    if isinstance(value, dict):
        return {name: held(one, name) for name, one in value.items()}
    if isinstance(value, str) and key in CONTENT and Path(value).is_dir():
        return model_digest(value) if key == MODEL else folder_digest(value)
    if isinstance(value, str) and (key in CONTENT or Path(value).suffix) and is_file(value):
        facts = Path(value).stat()
        return file_hash(value, facts.st_size, facts.st_mtime_ns)
    return value


@cache
def file_hash(file: str, size: int, changed: int) -> str:
    """The SHA-256 of a file, which is read once as long as its size and time stay the same."""
    return checksum(Path(file))


def is_file(path: str) -> bool:
    """Whether there is a regular file; no name is too odd to be asked for."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False
