"""AFT: distils the victim into a purified model on synthetic images, but not on adversarial ones.

The method is in `aft.py`; `synthesis.py` makes its images from what BatchNorm layers remember.
"""

from backdoor_lab.defenses.aft.aft import AFT

__all__ = ["AFT"]
