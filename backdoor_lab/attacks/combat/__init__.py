"""COMBAT: clean-label triggers, learnt in turns with a victim that they deceive.

The attack is in `combat.py`; `distortion.py` is the trigger, made of `unet.py` and `frequency.py`;
`alternation.py` trains it.
"""

from backdoor_lab.attacks.combat.combat import Combat

__all__ = ["Combat"]
