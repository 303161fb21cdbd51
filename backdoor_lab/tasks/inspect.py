"""Inspect: look for signs of a backdoor in the victim, and in what a defense makes of it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import Data
from backdoor_lab.defenses.ft_matched import FTMatched
from backdoor_lab.evaluation.change import change
from backdoor_lab.evaluation.doubts import doubt_auxiliary, doubt_scores
from backdoor_lab.evaluation.examination import Examination, evaluate
from backdoor_lab.evaluation.scores import defense_effectiveness
from backdoor_lab.models import Classifier
from backdoor_lab.records import Inspection, Record
from backdoor_lab.reports.evidence import draw_evidence, evidence_picture
from backdoor_lab.seeds import derive
from backdoor_lab.tasks._base import Task
from backdoor_lab.tasks._clean import clean_accuracy
from backdoor_lab.tasks._defender import calibrated, check_defender, draw, prepared, purified

if TYPE_CHECKING:
    from backdoor_lab.run.job import Job
    from backdoor_lab.run.parts import Parts


class Inspect(Task):
    """The story of a look: what each detector says, and whether a defense changes that.

    Args:
        sham: rate, batch and epochs of the plain fine-tuning beside the defense, as of
            `FTMatched`.
    """

    def __init__(self, sham: dict[str, Any]) -> None:
        self.sham = FTMatched("defense", **sham) if sham["epochs"] else None

    def check(self, parts: Parts) -> None:
        super().check(parts)
        check_defender(parts)

    def run(self, job: Job) -> Record:
        parts, engine = job.parts, job.parts.engine
        data = prepared(job)
        victim = parts.victim.bring(parts.attack, job.workshop(data))
        job.lap("victim")
        aux = draw(job, data, victim)
        exam = Examination.of(data, victim.attack)
        doubt_auxiliary(aux, exam.target, exam.classes)
        models = {"victim": victim.model, **self.others(job, data, victim.model, aux)}
        scores = {name: evaluate(model, exam, engine) for name, model in models.items()}
        doubt_scores(scores, clean_accuracy(job, victim.name), len(exam.classes))
        changes = {
            name: change(victim.model, model, data.test, exam.classes, engine)
            for name, model in models.items()
            if name != "victim"
        }
        job.lap("evaluate")
        evidence = {}
        for name, model in models.items():
            evidence[name] = parts.detector.inspect_all(model, aux)
            if job.pictures:
                job.show(draw_evidence(job.folder, name, parts.detector.pictures(), exam.classes))
        job.lap("inspect")
        after = scores.get("purified")
        if after is not None:
            after = replace(after, der=defense_effectiveness(scores["victim"], after))
        record = replace(
            job.record(victim),
            defender_seed=job.cfg.defender_seed,
            chain=() if parts.defense.idle else job.names.chain,
            victim=scores["victim"],
            purified=after,
            inspection=Inspection(evidence, changes, scores.get("sham")),
            spent=job.spent(victim),
            details=job.details(victim, data, aux=aux.details, defense=parts.defense.details),
        )
        record.write(job.folder)  # before the picture, which may not cost a result
        if job.pictures:
            job.show(evidence_picture(job.folder, record))
        return record

    def others(
        self, job: Job, data: Data, victim: Classifier, aux: AuxiliarySet
    ) -> dict[str, Classifier]:
        """What a defense makes of the victim, and what plain fine-tuning makes of it."""
        if job.parts.defense.idle:
            return {}
        aux = calibrated(job, victim, aux)
        found = {"purified": purified(job, victim, aux)}
        job.lap("purify")
        if self.sham is not None and aux.images is not None and aux.labelled:
            self.sham.attach(job.parts.engine, data.spec, derive(job.defender_seed, "sham"))
            found["sham"] = cast(Classifier, self.sham.purify(deepcopy(victim), aux))
            job.lap("sham")
        return found

    def complete(self, job: Job, record: Record) -> Record:
        """Draw the evidence of a finished record; inverted triggers are not kept."""
        job.show(evidence_picture(job.folder, record))
        return record
