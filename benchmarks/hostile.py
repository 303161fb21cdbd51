"""Hands the importer damaged and hostile files, and tells what it says of them.

    python -m benchmarks.hostile --count 500 --seed 0

None may run, none may take over 2 GB or 10 s, and of each there is one sentence. What is read is a
sound file after all: a bit that flips in a weight leaves another weight.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backdoor_lab.attacks.unknown import Unknown
from backdoor_lab.console import console
from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import ModelFactory
from backdoor_lab.victims.imported import Imported
from backdoor_lab.victims.imported.opening import opened, taken
from benchmarks.common import machine, markdown
from benchmarks.crafting import Sound, sound_files
from benchmarks.hostile_files import MAKERS, MARKER

FACTORY = ModelFactory("preact_resnet18", options={"width": 16})
SPEC = DataSpec("two", ("a", "b"), (3, 32, 32), (0.5,) * 3, (0.5,) * 3, 0, False)


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    kind: str
    said: str | None
    seconds: float
    executed: bool


def sound() -> Sound:
    """The files that are damaged."""
    return sound_files(FACTORY.build(SPEC, 0).net.state_dict())


def handed_over(count: int, seed: int) -> Iterator[Outcome]:
    """Files of every kind in turn, each made, opened and thrown away."""
    samples, kinds = sound(), list(MAKERS)
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        kind = kinds[number % len(kinds)]
        with tempfile.TemporaryDirectory() as path:
            folder = Path(path)
            (folder / "in").mkdir()
            file = MAKERS[kind](draw, folder / "in", samples)
            yield handed(kind, file, folder)


def handed(kind: str, file: Path, folder: Path) -> Outcome:
    """Open one file as a run does: look at it, then convert it."""
    start = time.perf_counter()
    said = None
    try:
        Imported(file).check(Unknown(), FACTORY)
        taken(file, opened(file, FACTORY).layout, FACTORY.build(SPEC, 0), folder)
    except ConfigError as error:
        said = str(error)
    executed = any(folder.rglob(MARKER)) or Path(MARKER).exists()
    return Outcome(kind, said, time.perf_counter() - start, executed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes = list(handed_over(options.count, options.seed))
    rows = []
    for kind in MAKERS:
        own = [one for one in outcomes if one.kind == kind]
        said = Counter(sentence(one.said) for one in own if one.said)
        common = said.most_common(1)[0][0] if said else ""
        counts = len(own), sum(one.said is not None for one in own)
        rows.append(
            [kind, *counts, counts[0] - counts[1], sum(one.executed for one in own),
             f"{max((one.seconds for one in own), default=0):.1f}", common]
        )  # fmt: skip
    heads = ["kind", "files", "refused", "read", "executed", "most s", "said most often"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = [
        "# Files from strangers", "",
        f"`python -m benchmarks.hostile --count {options.count} --seed {options.seed}` on "
        f"{machine()}.", "", markdown(heads, rows), "",
        f"Most memory of a reading process: {peak:.2f} GB, of which what it shares with its parent "
        f"(up to {before:.2f} GB). A file that is read is sound after all: a flipped bit in a "
        "weight leaves another weight.",
    ]  # fmt: skip
    console().print("\n".join(text), soft_wrap=True, markup=False, highlight=False)


def sentence(said: str) -> str:
    """What is said of a file, without its name."""
    first = said.partition("\n")[0].partition("; allowed")[0]
    return first.partition("' ")[2][:110].replace("|", "/")


if __name__ == "__main__":
    main()
