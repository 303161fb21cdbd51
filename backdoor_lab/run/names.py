"""What a run is called."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from omegaconf import DictConfig

from backdoor_lab.config.facts import fact
from backdoor_lab.config.names import choices_of
from backdoor_lab.records import Record

GROUPS = ("victim", "dataset", "model", "attack", "recipe", "protocol")  # every task reads them


@dataclass(frozen=True)
class Names:
    """The chosen names, and the command that repeats the run."""

    task: str
    choices: dict[str, str]
    overrides: tuple[str, ...]
    seed: int

    @classmethod
    def of(cls, cfg: DictConfig, choices: Mapping[str, str], overrides: tuple[str, ...]) -> Names:
        """From Hydra's choices; the data set by its own name, which a user may have changed."""
        chosen = choices_of(choices)
        read = fact(cfg.task, "groups", [])
        kept = {group: chosen[group] for group in (*GROUPS, *read) if group in chosen}
        kept["dataset"] = str(cfg.dataset.name)
        return cls(chosen["task"], kept, overrides, int(cfg.seed))

    @property
    def title(self) -> str:
        named = (self.choices.get(group) for group in ("attack", "defense", "aux"))
        return "-".join(name for name in named if name)

    @property
    def maker(self) -> str:
        """Of victims: data set and model."""
        return f"{self.choices['dataset']}-{self.choices['model']}"

    @property
    def group(self) -> str:
        """Of runs that are compared."""
        return f"{self.choices['dataset']}/{self.choices['model']}"

    @property
    def tags(self) -> list[str]:
        return [f"{group}={name}" for group, name in self.choices.items()]

    @property
    def command(self) -> str:
        return shlex.join(["python", "run.py", *self.overrides])

    @property
    def chain(self) -> tuple[str, ...]:
        """The defenses, first to last."""
        return tuple(self.choices.get("defense", "").split("+"))

    def failure(self, error: str) -> Record:
        """The record of a run that came to nothing."""
        return Record(self.task, self.choices, self.seed, self.command, error=error)
