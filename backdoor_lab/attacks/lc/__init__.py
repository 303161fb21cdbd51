"""LC: perturbed, correctly labelled images with marked corners.

The attack is in `lc.py`; `adversarial.py` perturbs images and trains the model that they must
deceive, `marks.py` draws the corners.
"""

from backdoor_lab.attacks.lc.lc import LC

__all__ = ["LC"]
