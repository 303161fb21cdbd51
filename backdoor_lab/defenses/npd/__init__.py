"""NPD: a small linear layer inside the frozen victim turns triggered features back.

The method is in `npd.py`; `polarizer.py` makes the layer and finds its place, `adversary.py` makes
the images that stand in for triggered ones.
"""

from backdoor_lab.defenses.npd.npd import NPD

__all__ = ["NPD"]
