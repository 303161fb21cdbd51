"""CC, Clean & Compact: shrinks extreme rank components, compresses, tunes BatchNorm; no data.

The method is in `cc.py`, which ends with `aft`; `low_rank.py` chooses the ranks.
"""

from backdoor_lab.defenses.cc.cc import CC

__all__ = ["CC"]
