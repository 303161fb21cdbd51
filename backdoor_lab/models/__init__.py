"""Classifiers: any architecture that timm knows, and our PreAct-ResNet18."""

from backdoor_lab.models.classifier import Classifier, ModelFactory
from backdoor_lab.models.frozen import freeze, frozen_copy
from backdoor_lab.models.preact_resnet import PreActResNet

__all__ = ["Classifier", "ModelFactory", "PreActResNet", "freeze", "frozen_copy"]
