"""Lists the papers' tables and figures of results with the command that makes each.

python -m benchmarks.papers
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from backdoor_lab.config import CONF
from backdoor_lab.config.catalogue import comments
from backdoor_lab.run.cells import combinations, swept
from benchmarks.common import markdown, names

HEAD = """# The papers' tables and figures of results

What a table needs beyond the command, such as images of yours, stands beside it. The presets
compose, and each printed number belongs to a cell of its preset (tests); none has been run at its
full size here. `size=small` and `size=demo` behind a command make the table affordable, and
`task=table` in the place of `-m` sets it out beside the printed numbers.
"""


def cells(name: str) -> list[tuple[str, ...]]:
    """The cells of a preset's grids."""
    alone = {"paths": {"data": "data"}, "hydra": {"overrides": {"task": [], "hydra": []}}}
    preset = OmegaConf.merge(alone, OmegaConf.load(CONF / "experiment" / f"{name}.yaml"))
    return combinations(swept(cast(DictConfig, preset)))


def row(name: str) -> list[object]:
    """Title, number of cells and command of a preset."""
    file = CONF / "experiment" / f"{name}.yaml"
    title, command, *notes = comments(file)
    return [title.rstrip("."), len(cells(name)), f"`{command}`", " ".join(notes)]


def page() -> str:
    """The list in Markdown, tables first."""
    tables = [name for name in names("experiment") if "_table" in name]
    tables += [name for name in names("experiment") if "_figure" in name]
    heads = ["table or figure", "cells", "command", "beside it"]
    return HEAD + "\n" + markdown(heads, map(row, tables)) + "\n"


def main() -> None:
    Path(__file__).with_suffix(".md").write_text(page())


if __name__ == "__main__":
    main()
