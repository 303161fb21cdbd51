"""Defenses: one file a method."""

from backdoor_lab.defenses._base import Defense

__all__ = ["Defense"]
