"""What was typed in vain: it is told, and the run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config.facts import fact

WINNERS = {"aux.ratio": ("aux.size", "aux.per_class"), "aux.per_class": ("aux.size",)}
DEFENDER = (  # not for every task
    "defense", "aux", "calibration", "evaluation", "detector", "defender_seed",
)  # fmt: skip
LEAVES = ("views", "keep_model")  # what only some tasks leave beside the record


def without_effect(cfg: DictConfig, typed: Sequence[str]) -> Iterator[str]:
    """What was typed and changes nothing, in a sentence each."""
    decisive, leaves = fact(cfg.task, "groups", []), fact(cfg.task, "leaves", {})
    ignored = [group for group in DEFENDER if group not in decisive]
    for one in typed:
        key = one.lstrip("+~").partition("=")[0]
        group = key.replace("@", ".").partition(".")[0]
        if group in ignored or (group == "then" and "defense" in ignored):
            yield f"{one} has no effect: this task does without {group}"
        if key in LEAVES and cfg[key] and key not in leaves:
            yield f"{one} has no effect: this task leaves nothing of it"
        if group == "table":
            yield f"{one} has no effect: task=table alone sets out tables"
        for winner in WINNERS.get(key, ()):
            if OmegaConf.select(cfg, winner) is not None:
                yield f"{one} has no effect: {winner} is given, and wins"


def without_grid(hydra: HydraConf, in_grid: bool) -> Iterator[str]:
    """What was chosen for a grid, in a run that is in none: a sentence each."""
    if in_grid:
        return
    typed = {one.partition("=")[0] for one in hydra.overrides.task}
    swept = [key for key in hydra.sweeper.get("params") or {} if key not in typed]
    if swept:
        name = hydra.runtime.choices["experiment"]
        lists = ", ".join(swept)
        yield f"experiment={name} is a grid of {lists}; this is one run of it, and -m makes all"
    for one in hydra.overrides.hydra:
        if one.startswith("hydra/launcher="):
            yield f"{one} has no effect: it launches grids (-m)"
