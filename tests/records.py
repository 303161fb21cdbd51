"""A record as tests want one."""

from backdoor_lab.evaluation.scores import Scores
from backdoor_lab.records import Record, Spent

CHOICES = {
    "victim": "trained",
    "dataset": "digits",
    "model": "preact_resnet18",
    "attack": "wanet",
    "defense": "unibp",
    "aux": "external",
    "calibration": "gic",
    "protocol": "none",
}


def record(**changes):
    """WaNet purified by UniBP; any field may be changed, any choice by its group's name."""
    choices = CHOICES | {key: changes.pop(key) for key in list(changes) if key in ("attack",)}
    seconds = {"victim": 41.2, "purify": 12.34, "total": 56.0}
    facts = {
        "task": "purify",
        "choices": choices,
        "seed": 0,
        "command": "python run.py",
        "chain": ("unibp",),
        "victim": Scores(0.9144, 0.9441, acc_target=0.95, acc_worst=0.81),
        "purified": Scores(0.9056, 0.0147, 0.887, None, 0.9603, 0.123, 0.1),
        "spent": Spent(seconds, 1234.5, 41.2, True),
    }
    return Record(**facts | changes)
