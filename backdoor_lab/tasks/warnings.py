"""What a reader of a result must know, said while it is made."""

from __future__ import annotations

import logging

from backdoor_lab.attacks import Attack
from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.evaluation.scores import Scores

log = logging.getLogger(__name__)
WEAK = 0.5


def warn_of_missing_target(aux: AuxiliarySet, attack: Attack | None) -> None:
    """Without images of the target class a defense may forget it, which lowers ASR as well."""
    if attack is None or attack.all_to_all or attack.harmless or not aux.labelled:
        return
    if aux.images is not None and not (aux.images.labels == attack.target).any():
        name = attack.spec.classes[attack.target]
        log.warning(
            "the auxiliary set holds no image of the target class %s: an ASR that falls may mean "
            "that the class was forgotten, see its accuracy",
            name,
        )


def warn_of_weak_backdoor(victim: Scores) -> None:
    """A victim that hardly answers to its trigger tells nothing of a defense."""
    if victim.asr is not None and victim.asr < WEAK:
        log.warning(
            "the victim's ASR is %.1f%% only: its attack did not take (more epochs, a higher "
            "poison rate?), and what a defense makes of it tells little",
            100 * victim.asr,
        )
