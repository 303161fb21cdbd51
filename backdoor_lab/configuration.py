"""What Hydra must know before it composes: schema, `aux` group, resolvers. Imports stay light."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "timm", "torchmetrics", "wandb")
VICTIM_GROUPS = ("dataset", "model", "attack", "recipe", "seed")
RUN_GROUPS = (*VICTIM_GROUPS, "defense", "aux", "calibration")
NOT_IDENTITY = ("cache", "root")  # where things lie does not change what they are


@dataclass
class Paths:
    """Folders; what the user supplies stands here, outside the swept groups."""

    data: str = MISSING
    outputs: str = MISSING
    cache: str = MISSING
    external: str | None = None
    synthetic: str | None = None


@dataclass
class Schema:
    """The top level; a key that is not here is refused."""

    seed: int = 0
    force: bool = False
    pictures: bool = True
    keep_model: bool = True
    paths: Paths = field(default_factory=Paths)
    values_for: dict[str, Any] = field(default_factory=dict)
    protocol: Any = None
    dataset: Any = None
    model: Any = None
    recipe: Any = None
    attack: Any = None
    defense: Any = None
    aux: Any = None
    calibration: Any = None
    trainer: Any = None
    logger: Any = None
    export: Any = None


def register() -> None:
    """Tell Hydra the schema, the group `aux` (files in conf/aux_data) and the resolvers."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Schema)
    for file in sorted((CONF / "aux_data").glob("*.yaml")):
        store.store(group="aux", name=file.stem, node=OmegaConf.load(file), provider=file.name)
    OmegaConf.register_new_resolver("value_for", value_for, replace=True)
    OmegaConf.register_new_resolver("for_dataset", for_dataset, replace=True)
    OmegaConf.register_new_resolver("for_attack", for_attack, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("project", lambda: str(ROOT), replace=True)
    OmegaConf.register_new_resolver("catalogue", catalogue, replace=True)


def value_for(key: str, default: Any, *, _root_: DictConfig) -> Any:
    """`values_for.<method>.<key>` of the protocol or data set, else the method's own default."""
    found = OmegaConf.select(_root_, f"values_for.{key}", default=None)
    return as_node(default) if found is None else found


def for_dataset(values: dict[str, Any], default: Any, *, _root_: DictConfig) -> Any:
    """The value of the data set, for protocols whose papers set one by data set; else `default`."""
    return values.get(_root_.dataset.name, default)


def for_attack(values: dict[str, Any], default: Any, *, _root_: DictConfig) -> Any:
    """The value of the attack, or else of the one inside it; else `default`."""
    node = _root_.attack
    while node is not None:
        name = node._target_.split(".")[-2]
        if name in values:
            return as_node(values[name])
        node = node.get("inner")
    return as_node(default)


def as_node(value: Any) -> Any:
    """A list as OmegaConf wants one from a resolver; anything else as it is."""
    return OmegaConf.create(value) if isinstance(value, list) else value


def run_name(*, _root_: DictConfig) -> str:
    """The folder of a run: what was chosen, then the seed and a hash of all that decides."""
    chosen = _root_.hydra.runtime.choices
    purge = f"{chosen.defense}-{chosen.aux}"
    if chosen.calibration != "none":
        purge = f"{purge}-{chosen.calibration}"
    last = f"seed{_root_.seed}-{digest(identity(_root_, RUN_GROUPS))}"
    return "/".join([str(_root_.dataset.name), chosen.model, attack_name(chosen), purge, last])


def attack_name(choices: Mapping[str, str]) -> str:
    """Such as `wanet`, or `adaptive-wanet` where one attack wraps another."""
    inner = [name for group, name in sorted(choices.items()) if group.startswith("attack@")]
    return "-".join([choices["attack"], *inner])


def identity(cfg: DictConfig, groups: tuple[str, ...]) -> dict[str, Any]:
    """The resolved config of `groups`, less what only says where files lie."""
    found: dict[str, Any] = {}
    for group in groups:
        node = OmegaConf.select(cfg, group)
        if isinstance(node, DictConfig):
            plain = OmegaConf.to_container(node, resolve=True)
            assert isinstance(plain, dict)
            kept = {key: value for key, value in plain.items() if key not in NOT_IDENTITY}
            node = held(kept)
        found[group] = node
    root = OmegaConf.select(cfg, "dataset.root")
    found["root"] = str(Path(root).resolve()) if root else None
    return found


def held(value: Any) -> Any:
    """`value` with the hash of what it holds in place of a file's name, such as a picture's."""
    if isinstance(value, dict):
        return {key: held(one) for key, one in value.items()}
    if isinstance(value, str) and Path(value).suffix and Path(value).is_file():
        return hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return value


def digest(value: Any) -> str:
    """Eight hexadecimal digits of a canonical JSON."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def catalogue() -> str:
    """Every name of every group with the first line of its file, for `--help`."""
    lines = []
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        group = folder.name.removesuffix("_data")
        lines.append(f"\n{group}")
        for file in sorted(folder.glob("[!_]*.yaml")):
            about = first_comment(file)
            lines.append(f"  {group}={file.stem:<24}{about}")
    return "\n".join(lines)


def first_comment(file: Path) -> str:
    """The first comment line of a yaml that is no directive."""
    for line in file.read_text().splitlines():
        if line.startswith("# ") and not line.startswith("# @package"):
            return line.removeprefix("# ")
    return ""


def versions() -> dict[str, str]:
    """Of this package and of those whose numbers change results."""
    own = {"backdoor_lab": version_of("backdoor_lab")}
    return own | {name: version_of(name) for name in PACKAGES}


def version_of(name: str) -> str:
    """The installed version; of this package also where it runs from a clone."""
    from backdoor_lab import __version__

    return __version__ if name == "backdoor_lab" else version(name)


def show_versions() -> None:
    """Write the versions to the terminal, a line each."""
    from rich.console import Console

    Console().print("\n".join(f"{name} {number}" for name, number in versions().items()))
