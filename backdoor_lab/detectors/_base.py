"""What every detector shares: it sees a model and the auxiliary set, and gives evidence."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.models import Classifier, frozen_copy
from backdoor_lab.records import Evidence, Rule
from backdoor_lab.seeds import derive
from backdoor_lab.training import Engine

SIDE = 32  # pixels, up to which detectors let `at_once` images pass together


class Panel:
    """One detector or several, with one face.

    Attributes:
        members: the detectors.
    """

    members: tuple[Detector, ...] = ()

    def check(self, has_images: bool, labelled: bool) -> None:
        """Refuse values that cannot work, before any data is read.

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        for one in self.members:
            one.check_values()

    def attach(self, engine: Engine, spec: DataSpec, seed: int) -> None:
        """Hand tools and public facts to each detector, and a seed of its own."""
        for one in self.members:
            one.engine, one.spec, one.seed = engine, spec, derive(seed, spelled(one))

    def inspect_all(self, model: Classifier, aux: AuxiliarySet) -> dict[str, Evidence]:
        """The evidence of each detector, by its name."""
        return {spelled(one): one.inspect(model, aux) for one in self.members}

    def pictures(self) -> dict[str, Tensor]:
        """What each can show of the model that it saw last: uint8 images, one a class."""
        return {f"{spelled(one)}: {row}": i for one in self.members for row, i in one.shown.items()}


class Detector(Panel, ABC):
    """Looks for signs of a backdoor in a model, which stays as it is.

    Neither the trigger, nor the poisoned indices, nor the training set is within its reach.

    Attributes:
        cannot_see: backdoors that the method passes over by nature, for whoever reads the result.
        needs_images: whether it must have auxiliary images.
        needs_labels: whether these must be labelled.
        shown: rows of uint8 images (K, C, H, W), one a class, of the last model.
        passed: images that went through the model so far.
    """

    cannot_see: ClassVar[str]
    needs_images = True
    needs_labels = False

    def __init__(self) -> None:
        self.engine: Engine
        self.spec: DataSpec
        self.seed: int
        self.shown: dict[str, Tensor] = {}
        self.passed = 0

    @property
    def members(self) -> tuple[Detector, ...]:  # type: ignore[override]
        return (self,)

    @abstractmethod
    def look(self, model: Classifier, aux: AuxiliarySet) -> Evidence:
        """What a frozen copy of the model, on the engine's device, gives away."""

    def inspect(self, model: Classifier, aux: AuxiliarySet) -> Evidence:
        """The evidence, or in one sentence why the method does not apply."""
        lacks = self.lacks(aux.images is not None and len(aux.images) > 0, aux.labelled)
        if lacks:
            return Evidence("not applicable", self.cannot_see, lacks)
        start, self.passed, self.shown = time.perf_counter(), 0, {}
        copy = cast(Classifier, frozen_copy(model))
        copy.to(self.engine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        found = self.look(copy, aux)
        return replace(found, seconds=time.perf_counter() - start, images=self.passed)

    def lacks(self, has_images: bool, labelled: bool) -> str | None:
        """What is missing for it to apply, in a sentence; None: nothing."""
        if self.needs_images and not has_images:
            return f"{spelled(self)} needs auxiliary images, and aux holds none"
        if self.needs_labels and not labelled:
            return f"{spelled(self)} needs labels, and those of the auxiliary images are not known"
        return None

    def check_values(self) -> None:
        """Refuse values that cannot work."""

    def check(self, has_images: bool, labelled: bool) -> None:
        super().check(has_images, labelled)
        if lacks := self.lacks(has_images, labelled):
            raise ConfigError(
                f"detector={spelled(self)} does not apply: {lacks}; allowed: what it needs, or "
                "detector=all, which leaves out what does not apply"
            )

    def together(self, at_once: int) -> int:
        """How many images pass at a time: `at_once`, of more than 32 pixels fewer."""
        _, height, width = self.spec.shape
        return max(1, at_once * SIDE**2 // max(SIDE**2, height * width))

    def logits(self, model: Classifier, images: Tensor) -> Tensor:
        """fp32 logits (N, classes) of images (N, C, H, W), which are counted."""
        self.passed += len(images)
        with self.engine.autocast():
            answers = model(images)
        return answers.float()

    def answers(self, model: Classifier, images: Iterable[Tensor]) -> Tensor:
        """The classes (N,) that `model` takes parts of N images for."""
        with torch.no_grad():
            return torch.cat([self.logits(model, part).argmax(1) for part in images])

    def found(
        self,
        scores: Iterable[float],
        scalar: float | None,
        reference: Rule | None,
        calibrated: Rule | None,
        reason: str | None = None,
        foremost: int | None = None,
        **details: Any,
    ) -> Evidence:
        """Evidence with a verdict by the calibrated rule; without one `reason` says why.

        The foremost class is that of the highest score, where no other is told.
        """
        named = dict(zip(self.spec.classes, map(float, scores), strict=False))
        verdict = "not flagged"
        if calibrated is None:
            verdict = "no verdict"
        elif calibrated.flagged:
            verdict = "flagged"
        most = max(named, key=named.__getitem__, default=None)
        told = most if foremost is None else self.spec.classes[foremost]
        facts = (None if calibrated else reason, named, told, scalar, reference, calibrated)
        return Evidence(verdict, self.cannot_see, *facts, details=details)  # type: ignore[arg-type]


def grouped(count: int, size: int) -> list[range]:
    """The numbers 0 to `count` - 1 in groups of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
