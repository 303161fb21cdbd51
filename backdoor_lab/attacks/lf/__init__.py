"""LF: a smooth universal perturbation.

The attack is in `lf.py`; `deepfool.py` moves single images to the target class, `smoothing.py`
makes their sum smooth.
"""

from backdoor_lab.attacks.lf.lf import LF

__all__ = ["LF"]
