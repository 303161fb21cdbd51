"""BCU: re-initialises weights at random, more in deeper layers, and distils the victim into them.

Paper     Pang et al., "Backdoor Cleansing with Unlabeled Data", CVPR 2023
Differs   layers are told by type and grouped by resolution, so that any architecture will do (a
          CIFAR ResNet-18 gets the paper's ratios); the decreasing profile, which the paper does not
          print, is the reversed one scaled to the same overall ratio; bf16
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import frozen_copy
from backdoor_lab.models.stages import stages
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Recipe, cosine, sgd
from backdoor_lab.validation import (
    Count,
    Fraction,
    Index,
    Momentum,
    NonNegative,
    Positive,
    Rate,
    validated,
)


def temperature(epoch: int, epochs: int) -> float:
    """1 + 3 (e + 1) / E: from about 1 to 4."""
    return 1 + 3 * (epoch + 1) / epochs


def divergence(student: Tensor, teacher: Tensor, heat: float) -> Tensor:
    """Batch mean of KL(softmax(teacher / T) || softmax(student / T)) of logits (N, classes)."""
    wanted = (teacher.float() / heat).softmax(1)
    given = (student.float() / heat).log_softmax(1)
    return F.kl_div(given, wanted, reduction="batchmean")


def reinitialised(
    state: dict[str, Tensor], fresh: dict[str, Tensor], ratios: dict[str, float], seed: int
) -> dict[str, Tensor]:
    """`state` with each element of tensor t replaced by `fresh`'s with probability `ratios[t]`."""
    generator = generator_for(seed, "re-initialise")
    mixed = dict(state)
    for name, ratio in ratios.items():
        keep = torch.rand(state[name].shape, generator=generator) >= ratio
        old = state[name]
        mixed[name] = torch.where(keep.to(old.device), old, fresh[name].to(old.device))
    return mixed


def scaled(profile: list[float], sizes: list[int], target: float) -> list[float]:
    """The body (all but first and last) of `profile` times a factor, at most 1 each.

    The factor, found by bisection, makes the mean ratio, weighted by `sizes`, equal `target`.

    Raises:
        ValueError: no factor does; it says what is in reach.
    """

    def at(factor: float) -> list[float]:
        return [profile[0], *(min(1.0, factor * ratio) for ratio in profile[1:-1]), profile[-1]]

    low, high = 0.0, 1 / min(profile[1:-1], default=1.0)
    least, most = overall(at(low), sizes), overall(at(high), sizes)
    if not least <= target <= most:
        raise ValueError(f"{least:.4f} to {most:.4f} for this model")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if overall(at(middle), sizes) < target else (low, middle)
    return at(high)


def overall(ratios: list[float], sizes: list[int]) -> float:
    """Mean of `ratios` weighted by `sizes`."""
    return sum(ratio * size for ratio, size in zip(ratios, sizes, strict=True)) / sum(sizes)


class BCU(Defense):
    """Knowledge distillation into a partly re-initialised copy; BatchNorm is copied whole.

    Args:
        stem: share of re-initialised weights of the first layer.
        shallow: of the first group of the body.
        deep: of the last one; those between lie on a geometric line.
        head: of the final linear layers.
        strategy: `increasing` with depth, `decreasing` or `uniform`.
        target_overall: share of all eligible weights; None: that of the increasing profile.
        only: stages that are re-initialised, 0 the stem, the last one the head; None: all.
        temperature: of both softmaxes; None: from 1 to 4 over the epochs.
        labels: `soft` distils distributions, `hard` the teacher's choice.
        epochs: passes over the images; 0: the re-initialised student as it is.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: on all parameters.
        batch_size: images a step.
        t_max: epochs of the half cosine; None: all.
    """

    needs_labels = False

    @validated
    def __init__(
        self,
        stem: Fraction,
        shallow: Rate,
        deep: Rate,
        head: Fraction,
        strategy: Literal["increasing", "uniform", "decreasing"],
        target_overall: Fraction | None,
        only: list[Index] | None,
        temperature: Positive | None,
        labels: Literal["soft", "hard"],
        epochs: Index,
        lr: Positive,
        momentum: Momentum,
        weight_decay: NonNegative,
        batch_size: Count,
        t_max: Count | None,
    ) -> None:
        super().__init__()
        self.stem, self.shallow, self.deep, self.head = stem, shallow, deep, head
        self.strategy, self.target_overall, self.only = strategy, target_overall, only
        self.temperature, self.labels = temperature, labels
        self.epochs = epochs
        descent, anneal = sgd(momentum, weight_decay), partial(cosine, t_max=t_max)
        self.recipe = Recipe(max(1, epochs), batch_size, lr, descent, anneal)

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        self.ratios(model)

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        fresh = model.fresh(self.seed)  # type: ignore[operator]
        ratios = self.ratios(model)
        state = reinitialised(model.state_dict(), fresh.state_dict(), ratios, self.seed)
        self.teacher = frozen_copy(model)
        model.load_state_dict(state)
        if self.epochs:
            super().purify(model, aux)
        del self.teacher
        return model.eval()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """How far the answers are from the teacher's; the labels are not read."""
        images, _ = batch
        with torch.no_grad():
            wanted = self.teacher(images)
        if self.labels == "hard":
            return F.cross_entropy(self.model(images), wanted.argmax(1))
        heat = self.temperature or temperature(self.current_epoch, self.recipe.epochs)
        return divergence(self.model(images), wanted, heat)

    def ratios(self, model: nn.Module) -> dict[str, float]:
        """The share of each conv and linear tensor of `model` that is re-initialised."""
        groups = stages(model, self.spec.shape)
        if len(groups) == 3:  # one resolution only: each layer's depth counts
            groups[1:2] = [[name] for name in groups[1]]
        tensors = [
            {
                f"{name}.{tensor}": parameter.numel()
                for name in names
                for tensor, parameter in model.get_submodule(name).named_parameters(recurse=False)
            }
            for names in groups
        ]
        shares = self.profile([sum(group.values()) for group in tensors])
        if self.only is not None:
            if not set(self.only) <= set(range(len(shares))):
                raise ConfigError(
                    f"{self.key}.only={self.only} are no stages of this model; "
                    f"allowed: 0 (stem) to {len(shares) - 1} (head)"
                )
            shares = [share * (stage in self.only) for stage, share in enumerate(shares)]
        self.details["ratios"] = [round(share, 4) for share in shares]
        return {name: share for share, group in zip(shares, tensors, strict=True) for name in group}

    def profile(self, sizes: list[int]) -> list[float]:
        """The share of each stage, from its number of weights: stem, body groups, head."""
        last = max(1, len(sizes) - 3)
        growth = self.deep / self.shallow
        body = [self.shallow * growth ** (k / last) for k in range(len(sizes) - 2)]
        increasing = [self.stem, *body, self.head]
        target = self.target_overall
        if target is None:
            target = overall(increasing, sizes)
            if self.strategy == "increasing":
                return increasing
        if self.strategy == "uniform":
            return [target] * len(sizes)
        ordered = body if self.strategy == "increasing" else body[::-1]
        try:
            return scaled([self.stem, *ordered, self.head], sizes, target)
        except ValueError as error:
            raise ConfigError(
                f"{self.key}.target_overall={target} is out of reach; allowed: {error}"
            ) from None
