"""What tasks around a defense have in common: its checks, its images, its work on any model."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, cast

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import Data
from backdoor_lab.models import Classifier
from backdoor_lab.seeds import derive
from backdoor_lab.victims import Victim

if TYPE_CHECKING:
    from backdoor_lab.run.job import Job
    from backdoor_lab.run.parts import Parts


def check_defender(parts: Parts) -> None:
    """Refuse auxiliary data that cannot serve the defense or the detector.

    Raises:
        ConfigError: names the key, what was given and what is allowed.
    """
    parts.aux.check(parts.victim.knows_training)
    parts.defense.check(parts.aux.holds_images, parts.aux.labelled)
    parts.detector.check(parts.aux.holds_images, parts.aux.labelled)


def prepared(job: Job) -> Data:
    """The data; attack, defense and detectors are told what they may know of them."""
    data, parts, seed = job.load(), job.parts, job.defender_seed
    parts.attach(data, job.seed)
    attach_defense(parts, data, job.seed, seed)
    parts.detector.attach(parts.engine, data.spec, derive(seed, "detectors"))
    return data


def attach_defense(parts: Parts, data: Data, seed: int, defender_seed: int) -> None:
    """Tell the defense what it may know; refuse, before anything trains, what cannot serve.

    Raises:
        ConfigError: too few auxiliary images, or a model that the defense has no hold on.
    """
    poisoned = parts.attack.choose(data.train.labels)
    parts.defense.check_size(parts.aux.foresee(data, poisoned, defender_seed))
    parts.defense.attach(parts.engine, data.spec, derive(defender_seed, "defense"))
    parts.defense.check_model(parts.model.build(data.spec, seed))


def draw(job: Job, data: Data, victim: Victim) -> AuxiliarySet:
    """The defender's images, as they are."""
    return job.parts.aux.draw(data, victim.poisoned, job.defender_seed)


def calibrated(job: Job, model: Classifier, aux: AuxiliarySet) -> AuxiliarySet:
    """The defender's images as the run calibrates them for `model`."""
    seed = derive(job.defender_seed, "calibration")
    return job.parts.calibration.calibrate(model, aux, job.parts.engine, seed)


def purified(job: Job, model: Classifier, aux: AuxiliarySet) -> Classifier:
    """What the defense makes of `model` with `aux`; the same for the same model, however often."""
    engine = job.parts.engine
    defense = deepcopy(job.parts.defense, {id(engine): engine})
    done = defense.purify(model, aux)
    job.parts.defense.details.clear()
    job.parts.defense.details.update(defense.details)
    return cast(Classifier, done)
