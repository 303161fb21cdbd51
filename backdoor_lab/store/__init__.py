"""Victims and whatever attacks need first: made once, found again by what made them."""

from backdoor_lab.store.artifacts import Store
from backdoor_lab.store.victims import Victim, obtain_victim

__all__ = ["Store", "Victim", "obtain_victim"]
