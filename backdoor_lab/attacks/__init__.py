"""Attacks: one file a method."""

from backdoor_lab.attacks._base import Attack

__all__ = ["Attack"]
