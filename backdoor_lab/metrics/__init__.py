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

__all__ = [
    "AttackSuccessRate",
    "CleanAccuracy",
    "RobustAccuracy",
    "accuracy",
    "attack_success_rate",
    "defense_effectiveness",
    "robust_accuracy",
]
