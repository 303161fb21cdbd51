"""SBL: a backdoor that outlives fine-tuning.

The attack and its second stage are in `sbl.py`; `first_stage.py` learns the backdoor,
`continual.py` holds the penalties of the second stage.
"""

from backdoor_lab.attacks.sbl.sbl import SBL

__all__ = ["SBL"]
