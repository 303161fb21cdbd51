"""What makes a result doubtful: said once, to whoever reads it, and to no defense."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.evaluation.scores import Scores

log = logging.getLogger(__name__)
LEARNT, LOST, ALIKE = 0.5, 0.1, 0.8


def doubt_victim(scores: Scores, clean: float | None) -> None:
    """Warn of a backdoor that was hardly learnt, and of one that cost much accuracy.

    Args:
        scores: of the victim.
        clean: ACC of a model that was trained alike on clean images, where one is known.
    """
    if scores.asr is not None and scores.asr < LEARNT:
        log.warning(
            "the victim's ASR is %.1f %%, under %.0f %%: it has hardly learnt the backdoor that is "
            "to be removed",
            100 * scores.asr,
            100 * LEARNT,
        )
    if clean is not None and clean - scores.acc > LOST:
        log.warning(
            "the victim's ACC is %.1f %%, more than %.0f points below the clean model's %.1f %%",
            100 * scores.acc,
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
