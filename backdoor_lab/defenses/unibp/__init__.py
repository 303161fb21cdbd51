"""UniBP: prunes the few BatchNorm entries that would rebuild the backdoor, then fine-tunes.

The method is in `unibp.py`; `rectification.py` rebuilds the backdoor in a copy and scores its
entries, `entries.py` chooses among them and gives them fresh noise.
"""

from backdoor_lab.defenses.unibp.unibp import UniBP

__all__ = ["UniBP"]
