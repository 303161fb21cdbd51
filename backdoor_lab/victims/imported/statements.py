"""What a file states about itself, against what the configuration says."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backdoor_lab.errors import ConfigError
from backdoor_lab.victims.imported.foreign import shown
from backdoor_lab.victims.imported.told import Told

if TYPE_CHECKING:
    from backdoor_lab.victims.workshop import Workshop

log = logging.getLogger(__name__)
PLAIN = re.compile(r"(?!(?:true|false|null|nan|inf|infinity)$)[A-Za-z_]\w*", re.IGNORECASE)
CLOSE = 2e-3  # means and deviations are printed with three digits or so


def refuse_statements(told: Told, outputs: int, shop: Workshop) -> None:
    """Refuse a head of another size, another order of the classes, and other normalisation.

    What lies among the weights was used with them; what a config says of its normalisation may be
    left over from the model that it was tuned from, and is said only.

    Raises:
        ConfigError: names the key, what was given and what is allowed.
    """
    spec = shop.data.spec
    if outputs != spec.num_classes:
        raise ConfigError(
            f"dataset: {spec.num_classes} classes of images, but the model's head has {outputs} "
            f"outputs; allowed: images of all {outputs} classes, a folder each"
        )
    refuse_order(told, shop)
    for key, stated, ours in (("mean", told.mean, spec.mean), ("std", told.std, spec.std)):
        if stated is None or all(abs(a - b) < CLOSE for a, b in zip(stated, ours, strict=True)):
            continue
        sentence = f"dataset.{key}={list(ours)}, but the file says {rounded(stated)}"
        if told.holds_normalisation:
            raise ConfigError(f"{sentence}; allowed: dataset.{key}={rounded(stated)}")
        log.warning("%s, as dataset.%s=%s", sentence, key, rounded(stated))
    if told.side not in (None, spec.shape[-1]):
        log.warning(
            "dataset.image_size=%d, but the file says %d: accuracy and evidence may suffer",
            spec.shape[-1], told.side,
        )  # fmt: skip


def refuse_order(told: Told, shop: Workshop) -> None:
    """Refuse classes in another order than the file names them, unless that was chosen."""
    ours, free = shop.data.spec.classes, shop.identity["dataset"].get("classes") is None
    if told.classes is None or not free or told.classes == ours:
        return
    if sorted(told.classes) == sorted(ours):
        raise ConfigError(
            f"dataset.classes=null, but the file names its outputs in another order; "
            f"allowed: {as_typed(told.classes)}"
        )
    log.warning(
        "the file calls its first output %s, the images' first class is %s: is the order the same?",
        shown(told.classes[0]),
        ours[0],
    )


def as_typed(classes: Sequence[str]) -> str:
    """`dataset.classes=[...]` as it is typed in a shell; odd names are quoted for Hydra."""
    names = [
        name if PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=not name.isprintable())
        for name in classes
    ]
    text = f"dataset.classes=[{','.join(names)}]"
    return text if names == list(classes) else shlex.quote(text)


def rounded(values: tuple[float, ...]) -> str:
    """Numbers as they are typed."""
    return f"[{','.join(f'{value:.6g}' for value in values)}]"
