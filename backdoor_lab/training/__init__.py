"""Batches, augmentation, recipes and the engine that trains."""

from backdoor_lab.training.augment import Augmentation, CropFlip
from backdoor_lab.training.batches import Batches, as_floats, whole
from backdoor_lab.training.engine import Engine, accuracy
from backdoor_lab.training.manual import Manual
from backdoor_lab.training.recipe import Recipe, sgd
from backdoor_lab.training.sam import SAM, frozen_statistics
from backdoor_lab.training.schedules import (
    backdoorbench,
    constant,
    cosine,
    multi_step,
    one_cycle,
    plateau,
    waves,
)
from backdoor_lab.training.supervised import Supervised, Tuning

__all__ = [
    "SAM",
    "Augmentation",
    "Batches",
    "CropFlip",
    "Engine",
    "Manual",
    "Recipe",
    "Supervised",
    "Tuning",
    "accuracy",
    "as_floats",
    "backdoorbench",
    "constant",
    "cosine",
    "frozen_statistics",
    "multi_step",
    "one_cycle",
    "plateau",
    "sgd",
    "waves",
    "whole",
]
