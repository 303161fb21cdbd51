"""TSBD: weights that unlearning the clean task changes most are zeroed, then quietly repaired.

The method is in `tsbd.py`; `changes.py` says which weights these are.
"""

from backdoor_lab.defenses.tsbd.tsbd import TSBD

__all__ = ["TSBD"]
