"""What makes a result doubtful: said once, to whoever reads it, and to no defense."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.evaluation.scores import Scores

log = logging.getLogger(__name__)
LEARNT, LOST, ALIKE, ABOVE_CHANCE = 0.5, 0.1, 0.8, 1.5


def near_chance(accuracy: float, classes: int) -> bool:
    """Whether an accuracy on so many classes is hardly above that of guessing."""
    return accuracy < ABOVE_CHANCE / classes


def doubt_scores(scores: Mapping[str, Scores], clean: float | None, classes: int) -> None:
    """Warn of a model that only guesses, and of a backdoor that was hardly learnt or cost accuracy.

    Args:
        scores: of the `victim`, and of what was made of it.
        clean: ACC of a model that was trained alike on clean images, where one is known.
        classes: how many there are.
    """
    for model, found in scores.items():
        if near_chance(found.acc, classes):
            log.warning(
                "%s: ACC is %.1f %%, about chance on %d classes: no other score means anything",
                model,
                100 * found.acc,
                classes,
            )
    victim = scores["victim"]
    if victim.asr is not None and victim.asr < LEARNT:
        log.warning(
            "the victim's ASR is %.1f %%, under %.0f %%: it has hardly learnt the backdoor that is "
            "to be removed",
            100 * victim.asr,
            100 * LEARNT,
        )
    if clean is not None and clean - victim.acc > LOST:
        log.warning(
            "the victim's ACC is %.1f %%, more than %.0f points below the clean model's %.1f %%",
            100 * victim.acc,
            100 * LOST,
            100 * clean,
        )


def doubt_auxiliary(aux: AuxiliarySet, target: int | None, classes: Sequence[str]) -> None:
    """Warn where a labelled set lacks the target class: what forgets it looks purified."""
    if aux.images is None or not aux.labelled or target is None:
        return
    if not (aux.images.labels == target).any():
        log.warning(
            "the auxiliary set has no image of the target class %s: a defense that forgets the "
            "class lowers the ASR too",
            classes[target],
        )


def doubt_answers(answers: Tensor, classes: Sequence[str]) -> None:
    """Warn where the victim takes most auxiliary images, by its `answers` (N,), for one class.

    A defense that distils the victim's answers learns as much.
    """
    counts = answers.bincount(minlength=len(classes))
    share = counts.max().item() / len(answers)
    if share > ALIKE:
        log.warning(
            "the victim takes %.0f %% of the auxiliary images for class %s: they trigger it, are "
            "of few classes, or are unlike all that it has seen",
            100 * share,
            classes[int(counts.argmax())],
        )
