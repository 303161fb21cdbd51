"""What a run does, from its data to its record: one story a file."""

from backdoor_lab.tasks._base import Task

__all__ = ["Task"]
