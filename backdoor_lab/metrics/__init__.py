"""What a backdoor does to a model, in numbers."""

from backdoor_lab.metrics.backdoor import HitRate, defense_effectiveness
from backdoor_lab.metrics.stealth import stealth

__all__ = ["HitRate", "defense_effectiveness", "stealth"]
