"""Neural Cleanse: the smallest trigger of each class.

`inversion` finds the triggers, `costs` weighs their size, `triggers` keeps the best, and
`neural_cleanse` compares them.
"""

from backdoor_lab.detectors.neural_cleanse.neural_cleanse import NeuralCleanse

__all__ = ["NeuralCleanse"]
