"""One defense after another, each on the model that the one before it hands on."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import DataSpec
from backdoor_lab.defenses._base import Defense
from backdoor_lab.errors import spelled
from backdoor_lab.models import frozen_copy, thaw
from backdoor_lab.seeds import derive
from backdoor_lab.training import Engine


@dataclass(frozen=True)
class Chain:
    """One defense or more, with the face of one.

    Attributes:
        links: the defenses in their order.
        details: what each found, by its name; a name that comes again has its place behind it.
    """

    links: tuple[Defense, ...]
    details: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Later links are spoken of as they are typed."""
        for link in self.links[1:]:
            link.key = "then"

    @property
    def needs_images(self) -> bool:
        return any(link.needs_images for link in self.links)

    @property
    def needs_labels(self) -> bool:
        return any(link.needs_labels for link in self.links)

    @property
    def needs_batch_norm(self) -> bool:
        return any(link.needs_batch_norm for link in self.links)

    @property
    def idle(self) -> bool:
        return all(link.idle for link in self.links)

    @property
    def keeps_architecture(self) -> bool:
        return all(link.keeps_architecture for link in self.links)

    def check(self, has_images: bool, labelled: bool) -> None:
        """Refuse auxiliary data that cannot serve one of the links."""
        for link in self.links:
            link.check(has_images, labelled)

    def check_size(self, count: int) -> None:
        """Refuse an auxiliary set of `count` images that is too small for one of the links."""
        for link in self.links:
            link.check_size(count)

    def check_model(self, model: nn.Module) -> None:
        """Refuse an architecture that one of the links has no hold on."""
        for link in self.links:
            link.check_model(model)

    def attach(self, engine: Engine, spec: DataSpec, seed: int) -> None:
        """Hand tools and public facts to each link; the later ones get seeds of their own."""
        for index, link in enumerate(self.links):
            link.attach(engine, spec, derive(seed, f"link {index}") if index else seed)

    def purify(self, victim: nn.Module, aux: AuxiliarySet) -> nn.Module:
        """A purified copy of `victim`, in eval mode; nothing in it is frozen."""
        model = deepcopy(victim)
        for index, link in enumerate(self.links, start=1):
            link.original = partial(frozen_copy, victim)
            model = thaw(link.purify(model, aux)).eval()
            name = spelled(link)
            self.details[f"{name} {index}" if name in self.details else name] = link.details
        return model
