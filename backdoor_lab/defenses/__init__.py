"""Defenses: a file or a folder for each method."""

from backdoor_lab.defenses._base import Defense
from backdoor_lab.defenses._chain import Chain

__all__ = ["Chain", "Defense"]
