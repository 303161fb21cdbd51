"""What a backdoor does to a model, in numbers."""

from backdoor_lab.metrics.backdoor import (
    AttackSuccessRate,
    CleanAccuracy,
    RobustAccuracy,
    accuracy,
    attack_success_rate,
    defense_effectiveness,
    robust_accuracy,
)
from backdoor_lab.metrics.stealth import stealth

__all__ = [
    "AttackSuccessRate",
    "CleanAccuracy",
    "RobustAccuracy",
    "accuracy",
    "attack_success_rate",
    "defense_effectiveness",
    "robust_accuracy",
    "stealth",
]
