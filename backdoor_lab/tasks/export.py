"""Export: write what a victim is made of into files, for use outside."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backdoor_lab.errors import ConfigError
from backdoor_lab.records import Record
from backdoor_lab.tasks._base import Task

if TYPE_CHECKING:
    from backdoor_lab.run.job import Job
    from backdoor_lab.run.parts import Parts


class Export(Task):
    """The story of a hand-over; what is written, the group `export` says."""

    def check(self, parts: Parts) -> None:
        if parts.export is None:
            raise ConfigError("export=null, but task=export writes files; allowed: export=poisoned")
        super().check(parts)
        parts.export.check(parts.attack)

    def run(self, job: Job) -> Record:
        parts = job.parts
        data = job.load()
        parts.attach(data, job.seed)
        shop = job.workshop(data)
        victim = parts.victim.bring(parts.attack, shop)
        job.lap("victim")
        parts.export.write(job.folder, shop, victim)
        return replace(job.record(victim), spent=job.spent(victim))
