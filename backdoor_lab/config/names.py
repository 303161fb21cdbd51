"""What a run is called, and the folder that this gives it."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig

from backdoor_lab.config.facts import fact
from backdoor_lab.config.identity import run_identity
from backdoor_lab.digests import digest

DEFAULTS = {
    "task": "purify", "victim": "trained", "calibration": "none", "evaluation": "standard",
    "detector": "all",
}  # fmt: skip


def run_name(*, _root_: DictConfig) -> str:
    """The folder of a run: what was chosen, then the seed and a hash of all that decides.

    Such as `digits/resnet18/wanet/clp+ft-seen/seed0-1a2b3c4d`. What `DEFAULTS` names appears where
    it is another.
    """
    chosen = choices_of(_root_.hydra.runtime.choices)
    victim = [*unusual(chosen, "victim"), chosen["attack"]]
    decisive = fact(_root_.task, "groups", [])
    work = unusual(chosen, "task")
    for group in decisive:
        work += unusual(chosen, group)
    last = f"seed{_root_.seed}-{digest(run_identity(_root_))}"
    names = [str(_root_.dataset.name), chosen["model"], "-".join(victim), "-".join(work), last]
    return "/".join(names)


def unusual(chosen: Mapping[str, str], group: str) -> list[str]:
    """The choice of a group, if it is not the one that goes without saying."""
    name = chosen.get(group, "None")
    return [] if name in (DEFAULTS.get(group), "None") else [name]


def choices_of(choices: Mapping[str, str]) -> dict[str, str]:
    """Hydra's choices by group; wrapped attacks and chained defenses spelled as one name."""
    chosen = {group: str(name) for group, name in choices.items() if "/" not in group}
    inner = [name for group, name in sorted(chosen.items()) if group.startswith("attack@")]
    later = [n for g, n in sorted(chosen.items()) if g.startswith("defense@") and n != "None"]
    kept = {group: name for group, name in chosen.items() if "@" not in group}
    kept["attack"] = "-".join([kept["attack"], *inner])
    kept["defense"] = "+".join([kept["defense"], *later])
    return kept
