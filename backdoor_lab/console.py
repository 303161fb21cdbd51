"""The terminal: one console, one look of progress bars."""

from functools import cache

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@cache
def console() -> Console:
    """The console that tables and progress bars share."""
    return Console()


def progress_bar(shown: bool = True) -> Progress:
    """A bar with the time left; silent where the output is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(),
        disable=not (shown and console().is_terminal),
    )
