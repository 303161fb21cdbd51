"""Lists the papers' tables with the command that makes each, from the presets' own words.

python -m benchmarks.papers
"""

from __future__ import annotations

from math import prod
from pathlib import Path

from omegaconf import OmegaConf

from backdoor_lab.config import CONF
from backdoor_lab.run.cells import combinations
from benchmarks.common import markdown, names

HEAD = """# The papers' tables

What each table needs beyond the command (images of yours, cells that are no product of lists)
stands beside it. The presets compose (a test tries cells of each); none has been run at its full
size here.
"""


def row(name: str) -> list[object]:
    """Title, number of cells and command of a preset."""
    file = CONF / "experiment" / f"{name}.yaml"
    comments = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ")]
    title, command, *notes = comments[1:]
    params = OmegaConf.load(file).hydra.sweeper.params
    cells = prod(len(combinations([f"{key}={value}"])) for key, value in params.items())
    return [title.rstrip("."), cells, f"`{command}`", " ".join(notes)]


def main() -> None:
    tables = [name for name in names("experiment") if "table" in name]
    text = HEAD + "\n" + markdown(["table", "cells", "command", "beside it"], map(row, tables))
    Path(__file__).with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
