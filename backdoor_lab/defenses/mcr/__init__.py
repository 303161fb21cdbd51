"""MCR: joins the victim and its fine-tuned copy by a curve of low loss; takes a point on it.

The method is in `mcr.py`; `curves.py` says where a point of the curve lies.
"""

from backdoor_lab.defenses.mcr.mcr import MCR

__all__ = ["MCR"]
