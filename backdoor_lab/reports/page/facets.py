"""By what runs can be told apart and filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backdoor_lab.reports.page.settings import SEEDS, natural
from backdoor_lab.reports.table import CHOICES, DASH

FIRST = tuple(name for name in CHOICES if name not in SEEDS)  # the order in which they are shown
DEFAULT = "default"
UNKNOWN = -1  # of a cell that has never run; no filter hides it


@dataclass(frozen=True)
class Facet:
    """One thing that was chosen.

    Attributes:
        name: of a group, of a key such as `defense.k`, or of a seed.
        kind: choice, setting or seed; runs that differ in seeds alone are averaged.
        values: all that occur, in the order in which they are shown.
    """

    name: str
    kind: str
    values: tuple[str, ...]

    @property
    def absent(self) -> str:
        """What stands for a run that does not name it."""
        return DEFAULT if self.kind == "setting" else DASH

    def code(self, traits: Mapping[str, str], whole: bool = True) -> int:
        """The place of a run's value; `UNKNOWN` where it is not `whole` and does not name one."""
        if self.name not in traits and not whole:
            return UNKNOWN
        return self.values.index(traits.get(self.name, self.absent))


def facets_of(
    runs: Sequence[Mapping[str, str]], cells: Sequence[Mapping[str, str]], groups: frozenset[str]
) -> list[Facet]:
    """Facets of `runs`, whose traits are whole, and of `cells`, whose are not.

    Args:
        runs: traits by name.
        cells: the same; a name that is absent says nothing.
        groups: names that are choices; the others are settings, which count where they vary.
    """
    names = dict.fromkeys(name for one in (*runs, *cells) for name in one)
    first = [name for name in FIRST if name in names]
    choices = first + sorted(groups & names.keys() - set(first) - set(SEEDS))
    settings = sorted(names.keys() - set(choices) - set(SEEDS), key=natural)
    seeds = [name for name in SEEDS if name in names]
    kinds = {"choice": choices, "setting": settings, "seed": seeds}
    found = [_facet(name, kind, runs, cells) for kind, named in kinds.items() for name in named]
    return [facet for facet in found if facet.kind != "setting" or len(facet.values) > 1]


def _facet(
    name: str, kind: str, runs: Sequence[Mapping[str, str]], cells: Sequence[Mapping[str, str]]
) -> Facet:
    values = {one[name] for one in (*runs, *cells) if name in one}
    absent = Facet(name, kind, ()).absent
    if any(name not in one for one in runs):
        values.add(absent)
    ordered = sorted(values, key=lambda value: (value != absent, natural(value)))
    return Facet(name, kind, tuple(ordered))
