"""Trained: the attack's own victim, trained now or found in the store."""

from __future__ import annotations

from backdoor_lab.attacks import Attack
from backdoor_lab.victims._base import Victim, VictimSource
from backdoor_lab.victims.workshop import Workshop


class Trained(VictimSource):
    """Trains a victim once for all runs that ask for the same one."""

    def bring(self, attack: Attack, shop: Workshop) -> Victim:
        return shop.victim(attack)
