"""Classifiers: any architecture that timm knows, and our PreAct-ResNet18."""

from backdoor_lab.models.classifier import Classifier
from backdoor_lab.models.edits import replace
from backdoor_lab.models.factory import ModelFactory
from backdoor_lab.models.frozen import freeze, freeze_except, frozen_copy, thaw
from backdoor_lab.models.preact_resnet import PreActResNet
from backdoor_lab.models.saved import load_purified, save_purified
from backdoor_lab.models.sizes import parameter_count
from backdoor_lab.models.tracing import outputs, traced, watched

__all__ = [
    "Classifier",
    "ModelFactory",
    "PreActResNet",
    "freeze",
    "freeze_except",
    "frozen_copy",
    "load_purified",
    "outputs",
    "parameter_count",
    "replace",
    "save_purified",
    "thaw",
    "traced",
    "watched",
]
