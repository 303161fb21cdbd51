"""Printed characters, drawn with the fonts that matplotlib ships."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CANVAS = 64
GLYPH = 96


def fonts_with(characters: tuple[str, ...]) -> list[Path]:
    """Fonts whose glyphs of `characters` are named as in matplotlib's default font.

    Symbol fonts hold brackets or arrows, or nothing, in the places of letters and digits.
    """
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    expected = _glyph_names(Path(findfont("DejaVu Sans")), characters)
    return [
        path for path in sorted(folder.glob("*.ttf")) if _glyph_names(path, characters) == expected
    ]


def _glyph_names(font: Path, characters: tuple[str, ...]) -> list[str]:
    face = FT2Font(str(font))
    return [face.get_glyph_name(face.get_char_index(ord(name))) for name in characters]


def printed(
    characters: tuple[str, ...], versions: int, cells: int, draw: torch.Generator
) -> Tensor:
    """Every character in every font, `versions` times with another size, turn and place.

    Returns:
        Ink (fonts * characters * versions, cells, cells) in [0, 1], in that order.
    """
    faces = (ImageFont.truetype(str(font), GLYPH) for font in fonts_with(characters))
    return torch.stack(
        [
            _stamp(character, face, cells, torch.rand(4, generator=draw))
            for face in faces
            for character in characters
            for _ in range(versions)
        ]
    )


def _stamp(character: str, face: ImageFont.FreeTypeFont, cells: int, variation: Tensor) -> Tensor:
    """One character as ink (cells, cells); `variation` (4,) in [0, 1]: size, turn, place."""
    size, turn, right, down = variation.tolist()
    sheet = Image.new("L", (3 * GLYPH, 3 * GLYPH))
    middle = (1.5 * GLYPH, 1.5 * GLYPH)
    ImageDraw.Draw(sheet).text(middle, character, fill=255, font=face, anchor="mm")
    glyph = sheet.rotate(20 * turn - 10, Image.Resampling.BILINEAR)
    glyph = glyph.crop(glyph.getbbox())
    scale = CANVAS * (0.85 + 0.15 * size) / max(glyph.size)
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    canvas = Image.new("L", (CANVAS, CANVAS))
    free_x, free_y = CANVAS - width, CANVAS - height
    corner = (round(free_x * (0.35 + 0.3 * right)), round(free_y * down))
    canvas.paste(glyph.resize((width, height), Image.Resampling.BOX), corner)
    ink = torch.from_numpy(np.array(canvas.resize((cells, cells), Image.Resampling.BOX))).float()
    return ink / ink.max()
