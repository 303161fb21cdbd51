"""SSBA: a hidden code as the trigger.

The attack is in `ssba.py`; `steganography.py` holds encoder and decoder, `coding.py` trains and
judges them.
"""

from backdoor_lab.attacks.ssba.ssba import SSBA

__all__ = ["SSBA"]
