"""A picture of the user's, as a trigger is made of it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from backdoor_lab.datasets.files import UNREADABLE
from backdoor_lab.errors import ConfigError


def opened(picture: Path, mode: str) -> Image.Image:
    """The picture in a mode of PIL's, such as RGB, at its own size.

    Raises:
        ConfigError: PIL cannot read it, or refuses to.
    """
    try:
        return Image.open(picture).convert(mode)
    except UNREADABLE as error:
        raise ConfigError(
            f"attack.picture={picture} is no picture ({type(error).__name__}); "
            "allowed: null or the file of one"
        ) from None
