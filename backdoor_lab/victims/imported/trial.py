"""A stranger's model on the user's images: does it work, and do its outputs mean their classes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from backdoor_lab.datasets import evenly
from backdoor_lab.errors import ConfigError, DivergedError
from backdoor_lab.evaluation.doubts import near_chance
from backdoor_lab.models import Classifier
from backdoor_lab.training import accuracy
from backdoor_lab.victims.imported.order import meant_order
from backdoor_lab.victims.imported.statements import as_typed

if TYPE_CHECKING:
    from backdoor_lab.victims.workshop import Workshop

log = logging.getLogger(__name__)
TRIED = 2000  # images at most


def tried_out(model: Classifier, shop: Workshop) -> float:
    """Accuracy on the given images.

    Raises:
        ConfigError: answers are not finite, or mean another order of the classes than the folders'
            sorted one, which nobody has chosen.
    """
    some = shop.train.take(evenly(len(shop.train), TRIED))
    try:
        logits = shop.engine.predict(model, some)
    except DivergedError:
        raise ConfigError(
            "victim.path: the model's answers to the given images are not finite; allowed: a model "
            "that works, with its own dataset.mean and dataset.std"
        ) from None
    reached, classes = accuracy(logits, some.labels), shop.data.spec.classes
    order = meant_order(logits.argmax(1), some.labels, len(classes))
    if order is not None:
        say_order(shop, [classes[label] for label in order], reached)
    elif near_chance(reached, len(classes)):
        log.warning(
            "the model's accuracy on the given images is %.1f %%, about chance: are dataset.mean, "
            "dataset.std, dataset.image_size and the classes those of its training?",
            100 * reached,
        )
    return reached


def say_order(shop: Workshop, meant: list[str], reached: float) -> None:
    """Say that the model's outputs mean another order; refuse it where no order was stated."""
    stated = shop.identity["dataset"].get("classes")
    given = "null" if stated is None else f"[{','.join(stated)}]"
    sentence = (
        f"dataset.classes={given} makes the model right on {100 * reached:.1f} % of the given "
        f"images, but most of its answers mean the order [{','.join(meant)}]"
    )
    if stated is None:
        raise ConfigError(f"{sentence}; allowed: {as_typed(meant)}")
    log.warning("%s", sentence)
