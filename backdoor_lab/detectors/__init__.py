"""Looks for signs of a backdoor in a model: evidence, not verdicts."""

from backdoor_lab.detectors._base import Detector, Panel

__all__ = ["Detector", "Panel"]
