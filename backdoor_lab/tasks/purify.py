"""Purify: make or find the victim, purify it, judge both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import Data, ImageSet, evenly
from backdoor_lab.evaluation.costs import PeakMemory, measure
from backdoor_lab.evaluation.doubts import doubt_answers, doubt_auxiliary, doubt_victim
from backdoor_lab.evaluation.examination import Examination, evaluate
from backdoor_lab.evaluation.scores import defense_effectiveness
from backdoor_lab.models import Classifier, load_purified, save_purified
from backdoor_lab.models.saved import WEIGHTS
from backdoor_lab.records import Record
from backdoor_lab.reports.run_pictures import POINTS, draw_pictures
from backdoor_lab.reports.views import draw_views
from backdoor_lab.seeds import derive
from backdoor_lab.tasks._base import Task
from backdoor_lab.tasks._clean import clean_accuracy

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
        parts, engine, seed = job.parts, job.parts.engine, job.defender_seed
        data = job.load()
        parts.attach(data, job.seed)
        parts.attach_defense(data, job.seed, seed)

        shop = job.workshop(data)
        victim = parts.victim.bring(parts.attack, shop)
        job.lap("victim")
        aux = drawn = parts.aux.draw(data, victim.poisoned, seed)
        exam = Examination.of(data, victim.attack)
        doubt_auxiliary(aux, exam.target, exam.classes)
        if aux.images is not None and len(aux.images):
            doubt_answers(engine.predict(victim.model, aux.images).argmax(1), exam.classes)
        aux = parts.calibration.calibrate(victim.model, aux, engine, derive(seed, "calibration"))
        job.lap("calibration")
        with PeakMemory(engine.device) as memory:
            purified = cast(Classifier, parts.defense.purify(victim.model, aux))
        job.lap("purify")

        before, after = (evaluate(model, exam, engine) for model in (victim.model, purified))
        doubt_victim(before, clean_accuracy(job, victim.name))
        job.lap("evaluate")
        models = {"victim": victim.model, "purified": purified}
        relearned = {}
        if parts.evaluation.asked:
            compared = {**models, "clean": shop.clean_model().model}
            lesson = (data, victim.attack, exam, engine, derive(seed, "relearning"))
            relearned = parts.evaluation.of(compared, *lesson)
            job.lap("relearning")
        record = replace(
            job.record(victim),
            defender_seed=job.cfg.defender_seed,
            chain=job.names.chain,
            victim=before,
            purified=replace(after, der=defense_effectiveness(before, after)),
            relearned=relearned,
            costs=measure(models, data.spec, engine),
            spent=job.spent(victim, memory.mb),
            trigger=exam.stealth(),
            details={
                "victim": victim.facts,
                "test": data.rests_on,
                "attack": victim.details,
                "aux": aux.details,
                "defense": parts.defense.details,
            },
        )
        if job.keep_model:
            save_purified(job.folder, purified)
        if parts.export is not None:
            parts.export.write(job, record, victim, purified)
        if job.pictures:
            job.show(draw_pictures(job.folder, record, models, exam, engine))
        if job.views:
            sets = sets_of(data, drawn, aux) if parts.victim.knows_training else {}
            job.show(draw_views(job.folder, models, exam, sets, engine))
        return record

    def complete(self, job: Job, record: Record) -> Record:
        """Draw and export what a finished run lacks; without its model, purify again."""
        if not (job.folder / WEIGHTS).exists():
            return self.run(job)
        parts, engine, seed = job.parts, job.parts.engine, job.defender_seed
        data = job.load()
        parts.attach(data, job.seed)
        victim = parts.victim.bring(parts.attack, job.workshop(data))
        purified = load_purified(job.folder)
        if parts.export is not None:
            parts.export.write(job, record, victim, purified)
        exam = Examination.of(data, victim.attack)
        models = {"victim": victim.model, "purified": purified}
        if job.pictures:
            job.show(draw_pictures(job.folder, record, models, exam, engine))
        if job.views:
            drawn = parts.aux.draw(data, victim.poisoned, seed)
            derived = derive(seed, "calibration")
            aux = parts.calibration.calibrate(victim.model, drawn, engine, derived)
            sets = sets_of(data, drawn, aux) if parts.victim.knows_training else {}
            job.show(draw_views(job.folder, models, exam, sets, engine))
        return record


def sets_of(data: Data, drawn: AuxiliarySet, aux: AuxiliarySet) -> dict[str, ImageSet]:
    """Some seen images, and some auxiliary ones, before and after calibration."""
    if drawn.images is None or aux.images is None:
        return {}
    held = {"seen": data.train, "auxiliary": drawn.images}
    held |= {} if aux is drawn else {"calibrated": aux.images}
    return {name: images.take(evenly(len(images), POINTS)) for name, images in held.items()}
