"""Purify: make or find the victim, purify it, judge both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import Data, ImageSet, evenly
from backdoor_lab.evaluation.costs import PeakMemory, measure
from backdoor_lab.evaluation.doubts import doubt_answers, doubt_auxiliary, doubt_scores
from backdoor_lab.evaluation.examination import Examination, evaluate
from backdoor_lab.evaluation.scores import Scores, defense_effectiveness
from backdoor_lab.models import Classifier, load_purified, save_purified
from backdoor_lab.models.saved import WEIGHTS
from backdoor_lab.records import Record
from backdoor_lab.reports.run_pictures import POINTS, draw_pictures
from backdoor_lab.reports.views import draw_views
from backdoor_lab.seeds import derive
from backdoor_lab.store.whole import gathered
from backdoor_lab.tasks._base import Task
from backdoor_lab.tasks._clean import clean_accuracy
from backdoor_lab.tasks._defender import attach_defense, calibrated, draw
from backdoor_lab.training import Engine
from backdoor_lab.victims import Victim

if TYPE_CHECKING:
    from backdoor_lab.run.job import Job
    from backdoor_lab.run.parts import Parts


class Purify(Task):
    """The story of a defense: what it is handed, what it makes of it, what that was worth."""

    def check(self, parts: Parts) -> None:
        super().check(parts)
        parts.aux.check(parts.victim.knows_training)
        parts.evaluation.check(parts.attack, parts.victim.knows_training)
        parts.defense.check(parts.aux.holds_images, parts.aux.labelled)
        if parts.export is not None:
            parts.export.check(parts.attack)

    def run(self, job: Job) -> Record:
        parts, engine = job.parts, job.parts.engine
        data = job.load()
        parts.attach(data, job.seed)
        attach_defense(parts, data, job.seed, job.defender_seed)
        victim = parts.victim.bring(parts.attack, job.workshop(data))
        job.lap("victim")
        exam = Examination.of(data, victim.attack)
        drawn = draw(job, data, victim)
        self.doubt(drawn, victim, exam, engine)
        aux = calibrated(job, victim.model, drawn)
        job.lap("calibration")
        with PeakMemory(engine.device) as memory:
            purified = cast(Classifier, parts.defense.purify(victim.model, aux))
        job.lap("purify")

        models = {"victim": victim.model, "purified": purified}
        before, after = (evaluate(model, exam, engine) for model in models.values())
        scores = {"victim": before, "purified": after}
        doubt_scores(scores, clean_accuracy(job, victim.name), len(exam.classes))
        job.lap("evaluate")
        record = replace(
            job.record(victim),
            defender_seed=job.cfg.defender_seed,
            chain=job.names.chain,
            victim=before,
            purified=replace(after, der=defense_effectiveness(before, after)),
            relearned=self.relearned(job, data, exam, victim, models),
            costs=measure(models, data.spec, engine),
            spent=job.spent(victim, memory.mb),
            trigger=exam.stealth(),
            details=job.details(victim, data, aux=aux.details, defense=parts.defense.details),
        )
        if job.keep_model:
            save_purified(job.folder, purified)
        record.write(job.folder)  # before the pictures, none of which may cost a result
        self.leave(job, record, victim, models, exam, lambda: sets_of(data, drawn, aux))
        return record

    def complete(self, job: Job, record: Record) -> Record:
        """Draw and export what a finished run lacks; without its model, purify again."""
        if not (job.folder / WEIGHTS).exists():
            return self.run(job)
        parts = job.parts
        data = job.load()
        parts.attach(data, job.seed)
        victim = parts.victim.bring(parts.attack, job.workshop(data))
        models = {"victim": victim.model, "purified": load_purified(job.folder)}

        def sets() -> dict[str, ImageSet]:
            drawn = draw(job, data, victim)
            return sets_of(data, drawn, calibrated(job, victim.model, drawn))

        self.leave(job, record, victim, models, Examination.of(data, victim.attack), sets)
        return record

    def doubt(self, aux: AuxiliarySet, victim: Victim, exam: Examination, engine: Engine) -> None:
        """Say what may be wrong with the defender's images."""
        doubt_auxiliary(aux, exam.target, exam.classes)
        if aux.images is not None and len(aux.images):
            doubt_answers(engine.predict(victim.model, aux.images).argmax(1), exam.classes)

    def relearned(
        self,
        job: Job,
        data: Data,
        exam: Examination,
        victim: Victim,
        models: Mapping[str, Classifier],
    ) -> dict[str, Scores]:
        """Scores after each model has learnt the trigger again, and a clean model beside them."""
        evaluation, engine = job.parts.evaluation, job.parts.engine
        if not evaluation.asked:
            return {}
        compared = {**models, "clean": job.workshop(data).clean_model().model}
        seed = derive(job.defender_seed, "relearning")
        found = evaluation.of(compared, data, victim.attack, exam, engine, seed)
        job.lap("relearning")
        return found

    def leave(
        self,
        job: Job,
        record: Record,
        victim: Victim,
        models: Mapping[str, Classifier],
        exam: Examination,
        sets: Callable[[], dict[str, ImageSet]],
    ) -> None:
        """What lies beside the record where it was asked for: exports, pictures, views."""
        parts, engine = job.parts, job.parts.engine
        if parts.export is not None:
            parts.export.write(job, record, victim, models["purified"])
        drawn: dict[str, Path] = {}
        with gathered(job.folder) as beside:
            if job.pictures:
                drawn |= draw_pictures(beside, record, models, exam, engine)
            if job.views:
                known = sets() if parts.victim.knows_training else {}
                drawn |= draw_views(beside, models, exam, known, engine)
        job.show({name: job.folder / file.name for name, file in drawn.items()})


def sets_of(data: Data, drawn: AuxiliarySet, aux: AuxiliarySet) -> dict[str, ImageSet]:
    """Some seen images, and some auxiliary ones, before and after calibration."""
    if drawn.images is None or aux.images is None:
        return {}
    held = {"seen": data.train, "auxiliary": drawn.images}
    held |= {} if aux is drawn else {"calibrated": aux.images}
    return {name: images.take(evenly(len(images), POINTS)) for name, images in held.items()}
