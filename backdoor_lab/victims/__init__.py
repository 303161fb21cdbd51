"""Victims: the classifiers to be purified, trained here or brought along."""

from backdoor_lab.victims._base import Victim, VictimSource
from backdoor_lab.victims.workshop import Artifact, CleanModel, Workshop

__all__ = ["Artifact", "CleanModel", "Victim", "VictimSource", "Workshop"]
