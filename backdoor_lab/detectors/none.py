"""No detector: nothing is looked for.

Paper     -
Differs   -
"""

from __future__ import annotations

from backdoor_lab.detectors._base import Panel


class NoDetector(Panel):
    """Has no members."""
