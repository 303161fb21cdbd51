"""A stranger's file, opened in the quarantine; what is wrong with it becomes one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdoor_lab.config.identity import is_file
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import Classifier, ModelFactory
from backdoor_lab.victims.imported.foreign import Refused, shown
from backdoor_lab.victims.imported.layout import Layout, Misfit, Shapes
from backdoor_lab.victims.imported.namings import readings
from backdoor_lab.victims.imported.quarantine import Work, quarantined
from backdoor_lab.victims.imported.reading import convert, inspect
from backdoor_lab.victims.imported.told import Told
from backdoor_lab.victims.imported.zoo import fitted, of_the_zoo, outputs

READ = "allowed: safetensors, a checkpoint of tensors, or a folder with config.json"
LONGEST = 300  # letters of a path in a sentence


@dataclass(frozen=True)
class Opened:
    """What is known of a file before any weight is read.

    Attributes:
        format: of the file, in words.
        shapes: of its tensors.
        told: what it says beside them.
        layout: how it calls the weights.
        factory: builds the network that they belong to, with its stem and its options.
        outputs: classes that it tells apart.
    """

    format: str
    shapes: Shapes
    told: Told
    layout: Layout
    factory: ModelFactory
    outputs: int


def opened(path: Path | None, factory: ModelFactory) -> Opened:
    """Look at a file whose weights are to be those of an architecture.

    Raises:
        ConfigError: it is refused, or does not fit; says what does.
    """
    said = safely(inspect, path)
    shapes = {name: tuple(shape) for name, shape in said["shapes"].items()}
    ways = readings(shapes)
    found = fitted(ways, shapes, factory, said["wrapped"])
    if isinstance(found, Misfit):
        fit = ", ".join(f"model={name}" for name in of_the_zoo(ways, shapes))
        raise ConfigError(
            f"victim.path={called(path)} does not fit model.architecture={factory.architecture}: "
            f"it {found}; allowed: "
            + (fit or "none of conf/model fits, but model.architecture takes any timm name")
        )
    layout, own = found
    count = outputs(shapes, layout, own)
    return Opened(said["format"], shapes, Told.of(said["told"]), layout, own, count)


def taken(path: Path | None, layout: Layout, model: Classifier, folder: Path) -> None:
    """Write a file's weights into `folder` under our names.

    Raises:
        ConfigError: a weight is not finite.
    """
    expected = {name: list(one.shape) for name, one in model.net.state_dict().items()}
    plan = {
        "names": layout.names,
        "shapes": expected,
        "counters": [name for name in expected if name not in layout.names],
        "aside": list(layout.aside),
    }
    safely(convert, path, plan, str(folder))


def safely(work: Work, path: Path | None, *arguments: Any) -> dict[str, Any]:
    """What `work` finds in a file, in a process of its own.

    Raises:
        ConfigError: the file is refused; says how its owner converts it, where that is known.
    """
    file = existing(path)
    try:
        return quarantined(work, file, *arguments)
    except Refused as refused:
        lines = "\n    ".join(["", *refused.lines])
        how = f". In a sandbox, where its code may run, these lines make one:{lines}"
        raise ConfigError(
            f"victim.path={called(path)} {refused}; {READ}{how if refused.lines else ''}"
        ) from None


def existing(path: Path | None) -> Path:
    """Where a model lies.

    Raises:
        ConfigError: nowhere.
    """
    if path is None or not (is_file(str(path)) or path.is_dir()):
        raise ConfigError(f"victim.path={called(path)} is no file; {READ}")
    return path


def called(path: Path | None) -> str:
    """A path, for a sentence."""
    return "null" if path is None else shown(str(path), LONGEST)
