"""Input-aware: a trigger of its own for every image.

The attack is in `input_aware.py`; `networks.py` holds the network that paints patterns and masks,
`masks.py` trains the masks.
"""

from backdoor_lab.attacks.input_aware.input_aware import InputAware

__all__ = ["InputAware"]
