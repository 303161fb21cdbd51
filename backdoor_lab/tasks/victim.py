"""Victim: make it or find it, judge it, stop."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backdoor_lab.evaluation.costs import measure
from backdoor_lab.evaluation.doubts import doubt_scores
from backdoor_lab.evaluation.examination import Examination, evaluate
from backdoor_lab.records import Record
from backdoor_lab.tasks._base import Task
from backdoor_lab.tasks._clean import clean_accuracy

if TYPE_CHECKING:
    from backdoor_lab.run.job import Job


class MakeVictim(Task):
    """The story of an attack; no defense, no auxiliary data."""

    def run(self, job: Job) -> Record:
        parts, engine = job.parts, job.parts.engine
        data = job.load()
        parts.attach(data, job.seed)
        victim = parts.victim.bring(parts.attack, job.workshop(data))
        job.lap("victim")
        exam = Examination.of(data, victim.attack)
        scores = evaluate(victim.model, exam, engine)
        doubt_scores({"victim": scores}, clean_accuracy(job, victim.name), len(exam.classes))
        job.lap("evaluate")
        return replace(
            job.record(victim),
            victim=scores,
            costs=measure({"victim": victim.model}, data.spec, engine),
            spent=job.spent(victim),
            trigger=exam.stealth(),
            details=job.details(victim, data),
        )
