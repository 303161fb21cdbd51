"""Attacks: a file or a folder for each method."""

from backdoor_lab.attacks._base import Attack

__all__ = ["Attack"]
