"""Known backdoors, planted into copies of a model by fine-tuning, as controls."""

from backdoor_lab.evaluation.planting.gardener import Gardener, Plant
from backdoor_lab.evaluation.planting.lessons import Lessons, Rung, ladder

__all__ = ["Gardener", "Lessons", "Plant", "Rung", "ladder"]
