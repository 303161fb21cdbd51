"""What every attack shares: who is poisoned, how a label changes, the plain training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning import Callback
from torch import Tensor, nn

from backdoor_lab.datasets import DataSpec, ImageSet, truncate
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import CropFlip, Recipe, Supervised
from backdoor_lab.validation import Fraction, Index, validated

if TYPE_CHECKING:
    from backdoor_lab.victims import Workshop

Base = Literal["train_set", "target_class"]


def reported(callbacks: Sequence[Callback]) -> dict[str, Any]:
    """What callbacks have to say of a training that is an artifact, for its report."""
    return {key: value for callback in callbacks for key, value in callback.state_dict().items()}


class Attack(Supervised):
    """Trains a victim on poisoned data.

    An attack that only poisons says in `trigger` what a triggered image looks like; one that
    controls the training overrides `training_step` too. `build` lays out the trigger's buffers or
    sub-modules, which are saved with the victim; where they must be learnt, `prepare` fills them.

    Args:
        poison_rate: share of the training images that are poisoned, in (0, 1].
        target: class that triggered images are to be taken for (all-to-one).
        all_to_all: class y becomes y + 1 instead (modulo the number of classes).
        poison_rate_base: what the rate is a share of.

    Attributes:
        clean_label: only images of the target class are poisoned, and keep their label.
        eight_bits: how triggered images are stored, `truncate` or `nearest`.
        controls_training: poisons inside the training, so that no image is poisoned beforehand.
        learns_trigger: learns the trigger together with the victim: another attack cannot take it
            over.
        harmless: poisons nothing at all.
        known: whether images can be given the trigger; of a model from elsewhere perhaps not.
        crosses: trains on `cross` images too, so that a report tells the accuracy on them.
        callbacks: act on the victim's training; `adaptive` puts its own here.
        details: facts worth a report about how the victim was made.
    """

    clean_label = False
    controls_training = False
    eight_bits: Callable[[Tensor], Tensor] = staticmethod(truncate)
    learns_trigger = False
    harmless = False
    known = True
    crosses = False

    @validated
    def __init__(
        self,
        poison_rate: Fraction,
        target: Index,
        all_to_all: bool = False,
        poison_rate_base: Base = "train_set",
    ) -> None:
        super().__init__()
        self.poison_rate = poison_rate
        self.target = target
        self.all_to_all = all_to_all
        self.poison_rate_base = poison_rate_base
        self.callbacks: Sequence[Callback] = ()
        self.details: dict[str, Any] = {}
        self.spec: DataSpec

    @abstractmethod
    def trigger(self, images: Tensor) -> Tensor:
        """Triggered versions of images (N, C, H, W) in [0, 1], in the same shape and range."""

    def build(self, generator: torch.Generator) -> None:
        """Lay out the trigger's tensors for `self.spec`, with randomness from `generator` alone."""

    def prepare(self, shop: Workshop) -> None:
        """Learn what the trigger needs, as artifacts of the store; most attacks need nothing."""

    def cross(self, images: Tensor) -> Tensor:
        """What only looks triggered: altered images (N, C, H, W) whose class ought to stay."""
        return images

    def check(self, shape: tuple[int, int, int], num_classes: int | None) -> None:
        """Refuse what cannot work for images of `shape` (C, H, W).

        Raises:
            ConfigError: names the key, what was given and what is allowed.
        """
        if self.poison_rate == 0 and self.known and not self.harmless:
            raise ConfigError("attack.poison_rate=0 poisons nothing; allowed: (0, 1]")
        if self.clean_label and self.all_to_all:
            raise ConfigError("attack.all_to_all=true: a clean-label attack has one target class")
        if num_classes is not None and self.target >= num_classes:
            raise ConfigError(
                f"attack.target={self.target} is no class; allowed: 0 to {num_classes - 1}"
            )

    def attach(self, spec: DataSpec, recipe: Recipe, seed: int) -> None:
        """Learn the data's facts and build the trigger; the same seed builds the same one."""
        self.check(spec.shape, spec.num_classes)
        self.spec, self.recipe, self.seed = spec, recipe, seed
        self.augment = CropFlip(spec.padding, spec.flip)
        self.build(generator_for(seed, "trigger"))

    def train_trigger(self, images: Tensor) -> Tensor:
        """`trigger` of poisoned training images; a method may treat them unlike test images."""
        return self.trigger(images)

    def stamp(self, images: Tensor) -> Tensor:
        """Triggered test versions of `images` (N, C, H, W) uint8, in 8 bits."""
        return self._eight_bit(images, self.trigger)

    def stamp_cross(self, images: Tensor) -> Tensor:
        """`cross` of `images` (N, C, H, W) uint8, in 8 bits."""
        return self._eight_bit(images, self.cross)

    @torch.no_grad()
    def _eight_bit(self, images: Tensor, trigger: Callable[[Tensor], Tensor]) -> Tensor:
        parts = [
            self.eight_bits(trigger(part.to(self.device).float() / 255) * 255)
            for part in images.split(1000)
        ]
        return torch.cat(parts).to(images.device)

    def relabel(self, labels: Tensor) -> Tensor:
        """What the attacker wants triggered images of classes `labels` (N,) to be taken for."""
        if self.all_to_all:
            return (labels + 1) % self.spec.num_classes
        return torch.full_like(labels, self.target)

    def counted(self, labels: Tensor) -> Tensor:
        """Which test images (N,) count for ASR and RA: all, or all but the target class."""
        return (labels != self.target) | self.all_to_all

    @property
    def must_train(self) -> bool:
        """Whether there is no trigger before something was trained."""
        return self.learns_trigger or type(self).prepare is not Attack.prepare

    def examples(self, test: ImageSet) -> tuple[ImageSet, Tensor]:
        """Triggered images (M) with their true labels, and which test images (M,) they are of."""
        positions = self.counted(test.labels).nonzero().flatten()
        clean = test.take(positions)
        return ImageSet.of(self.stamp(clean.images), clean.labels), positions

    def quota(self, labels: Tensor) -> float:
        """How many of the training images the rate means, not rounded; from `labels` (N,)."""
        whole = self.poison_rate_base == "train_set"
        return self.poison_rate * (len(labels) if whole else int((labels == self.target).sum()))

    def choose(self, labels: Tensor) -> Tensor:
        """Sorted positions of the training images to poison, from `labels` (N,).

        Raises:
            ConfigError: none, or more than there are.
        """
        if self.controls_training:
            return torch.empty(0, dtype=torch.int64)
        in_target = (labels == self.target).nonzero().flatten()
        candidates = in_target if self.clean_label else torch.arange(len(labels))
        count = round(self.quota(labels))
        if not 1 <= count <= len(candidates):
            raise ConfigError(
                f"attack.poison_rate={self.poison_rate} of {self.poison_rate_base} means {count} "
                f"image(s); allowed: 1 to {len(candidates)}"
            )
        generator = generator_for(self.seed, "poison")
        order = torch.randperm(len(candidates), generator=generator)
        return candidates[order[:count]].sort().values

    def poison(self, train: ImageSet) -> tuple[ImageSet, Tensor]:
        """The poisoned training set, and the positions (P,) of its poisoned images."""
        chosen = self.choose(train.labels)
        labels = self.relabel(train.labels[chosen])
        images = self._eight_bit(train.cut(chosen), self.train_trigger)
        return train.overwrite(chosen, images, labels), chosen

    def train_victim(self, model: nn.Module, shop: Workshop, folder: Path | None = None) -> Tensor:
        """Train `model` in place on poisoned `shop.train`; resumes from `folder`.

        Returns:
            Positions (P,) of the poisoned images in the training split.
        """
        self.to(shop.engine.device)
        self.choose(shop.train.labels)  # refuses an impossible rate before anything is learnt
        self.prepare(shop)
        poisoned, chosen = self.poison(shop.train)
        if len(chosen):
            of_target = int((shop.train.labels[chosen] == self.target).sum())
            self.details |= {"poisoned": len(chosen), "poisoned_of_target": of_target}
        self.learn(model, poisoned, shop, folder)
        return chosen.cpu()

    def learn(
        self, model: nn.Module, poisoned: ImageSet, shop: Workshop, folder: Path | None
    ) -> None:
        """The victim's own training, after all that `prepare` learns."""
        self.model = model
        shop.engine.fit(self, poisoned, "victim", self.callbacks, folder)
        del self.model
