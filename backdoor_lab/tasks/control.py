"""Control: what the same defense does to backdoors that are known, because we planted them.

The plants are an attacker's, who may look at anything: their target and the step at which they are
learnt enough are chosen on test images. The defense that then meets them sees none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from scipy.stats import binomtest

from backdoor_lab.attacks import Attack
from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import Data
from backdoor_lab.errors import ConfigError
from backdoor_lab.evaluation.doubts import doubt_scores
from backdoor_lab.evaluation.examination import Examination, class_accuracies, evaluate
from backdoor_lab.evaluation.planting import Gardener, Lessons, Plant
from backdoor_lab.evaluation.scores import defense_effectiveness
from backdoor_lab.models import Classifier
from backdoor_lab.records import Evidence, Inspection, Planted, Record
from backdoor_lab.reports.evidence import evidence_picture
from backdoor_lab.seeds import derive
from backdoor_lab.tasks._base import Task
from backdoor_lab.tasks._clean import clean_accuracy
from backdoor_lab.tasks._defender import calibrated, check_defender, draw, prepared, purified
from backdoor_lab.validation import validated

if TYPE_CHECKING:
    from backdoor_lab.run.job import Job
    from backdoor_lab.run.parts import Parts


class Control(Task):
    """The story of a control: plant, judge, purify, judge again.

    Args:
        plants: by name, what makes the attack of each strength from its target and rate.
        lessons: how they are planted.
    """

    @validated
    def __init__(self, plants: dict[str, list[Callable[..., Attack]]], lessons: Lessons) -> None:
        self.plants, self.lessons = plants, lessons

    def check(self, parts: Parts) -> None:
        super().check(parts)
        check_defender(parts)
        if not (parts.aux.holds_images and parts.aux.labelled):
            raise ConfigError(
                "task=control plants backdoors with labelled images, but aux holds none; allowed: "
                "an aux with images and aux.labelled=true"
            )

    def run(self, job: Job) -> Record:
        parts, engine = job.parts, job.parts.engine
        data = prepared(job)
        victim = parts.victim.bring(parts.attack, job.workshop(data))
        job.lap("victim")
        aux = draw(job, data, victim)
        exam = Examination.of(data, victim.attack)
        before = evaluate(victim.model, exam, engine)
        doubt_scores({"victim": before}, clean_accuracy(job, victim.name), len(exam.classes))
        target = median_class(victim.model, data, parts, exam.target)
        gardener = Gardener(
            aux.labelled_data,
            lambda attack: Examination.of(data, attack),
            engine,
            self.lessons,
            derive(job.defender_seed, "plants"),
        )
        plants = {
            name: gardener.plant(victim.model, self.attacks(name, target, job, data))
            for name in self.plants
        }
        job.lap("plant")
        evidence = self.evidence(job, victim.model, gardener, plants, aux)
        planted = {
            name: judged(plant, victim.model, job, aux, target) for name, plant in plants.items()
        }
        job.lap("purify")
        record = replace(
            job.record(victim),
            defender_seed=job.cfg.defender_seed,
            chain=() if parts.defense.idle else job.names.chain,
            victim=before,
            inspection=Inspection(evidence, planted=planted),
            spent=job.spent(victim),
            details=job.details(victim, data, aux=aux.details),
        )
        record.write(job.folder)  # before the picture, which may not cost a result
        if job.pictures:
            job.show(evidence_picture(job.folder, record))
        return record

    def attacks(self, name: str, target: int, job: Job, data: Data) -> list[Attack]:
        """The strengths of a plant, attached to the data."""
        seed = derive(job.defender_seed, f"plant {name}")
        made = [
            make(poison_rate=self.lessons["share"], target=target) for make in self.plants[name]
        ]
        for attack in made:
            attack.attach(data.spec, job.parts.recipe, seed)
        return made

    def evidence(
        self,
        job: Job,
        victim: Classifier,
        gardener: Gardener,
        plants: Mapping[str, Plant],
        aux: AuxiliarySet,
    ) -> dict[str, dict[str, Evidence]]:
        """What detectors find on the victim, on a copy that was only fine-tuned, on the plants."""
        if not job.parts.detector.members:
            return {}
        longest = max(plants.values(), key=lambda plant: int(plant.tried[-1]["steps"]))
        models = {"victim": victim, "sham": gardener.sham(victim, longest)}
        models |= {name: plant.model for name, plant in plants.items() if plant.learnt}
        found = {n: job.parts.detector.inspect_all(model, aux) for n, model in models.items()}
        job.lap("inspect")
        return found

    def complete(self, job: Job, record: Record) -> Record:
        """Draw the pictures of a finished record."""
        job.show(evidence_picture(job.folder, record))
        return record


def judged(plant: Plant, victim: Classifier, job: Job, aux: AuxiliarySet, target: int) -> Planted:
    """What came of a plant, after the purification where it was learnt."""
    engine, exam, after = job.parts.engine, plant.exam, None
    if plant.learnt and not job.parts.defense.idle:
        fitted = calibrated(job, plant.model, aux)
        found = evaluate(purified(job, plant.model, fitted), exam, engine)
        after = replace(found, der=defense_effectiveness(plant.scores, found))
    last = after or plant.scores
    return Planted(
        learnt=plant.learnt,
        target=exam.classes[target],
        settings=dict(vars(plant.rung)),
        images=len(aux.labelled_data),
        tested=len(exam.triggered),
        unplanted=evaluate(victim, exam, engine).asr,
        before=plant.scores,
        after=after,
        interval=wilson(last.asr or 0.0, len(exam.triggered)),
        tried=plant.tried,
    )


def median_class(model: Classifier, data: Data, parts: Parts, known: int | None) -> int:
    """The class that fares in the middle on test images; not the victim's own target, if known."""
    each = class_accuracies(parts.engine.predict(model, data.test), data.test.labels)
    others = sorted((acc, label) for label, acc in each.items() if label != known)
    return others[len(others) // 2][1]


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval of a share of `count`, at 95%."""
    low, high = binomtest(round(share * count), count).proportion_ci(0.95, "wilson")
    return round(low, 6), round(high, 6)
