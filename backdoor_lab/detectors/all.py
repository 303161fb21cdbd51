"""All detectors, of which those that do not apply say so in a sentence.

Paper     -
Differs   -
"""

from __future__ import annotations

from backdoor_lab.detectors._base import Detector, Panel
from backdoor_lab.validation import validated


class All(Panel):
    """One after another.

    Args:
        among: detectors by name.
    """

    @validated
    def __init__(self, among: dict[str, Detector]) -> None:
        self.members = tuple(among.values())
