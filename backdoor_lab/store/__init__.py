"""Victims and whatever attacks need first: made once, found again by what made them."""

from backdoor_lab.store.artifacts import Store
from backdoor_lab.store.victims import Victim, clean_victim, obtain_victim
from backdoor_lab.store.workshop import Artifact, Workshop

__all__ = ["Artifact", "Store", "Victim", "Workshop", "clean_victim", "obtain_victim"]
