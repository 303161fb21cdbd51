"""LIRA: bounded noise that is learnt with the classifier.

The attack and its second stage are in `lira.py`; `stage1.py` trains generator and classifier
together, `networks.py` holds the generators.
"""

from backdoor_lab.attacks.lira.lira import LIRA

__all__ = ["LIRA"]
