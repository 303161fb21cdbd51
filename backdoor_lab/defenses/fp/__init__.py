"""FP (Fine-Pruning): prunes the channels that clean images leave dormant, then fine-tunes.

The method is in `fp.py`; `channels.py` finds the last feature map and what its channels own.
"""

from backdoor_lab.defenses.fp.fp import FP

__all__ = ["FP"]
