"""NPD: a layer inside the frozen victim learns to turn triggered features back.

Paper     Zhu et al., "Neural Polarizer: A Lightweight and Effective Backdoor Defense via Purifying
          Poisoned Features", NeurIPS 2023
Differs   from BackdoorBench (defense/npd.py): the polarizer becomes a layer of the model that is
          handed back, where the reference saves the victim unchanged; its place is found in any
          architecture; a sample's own class is left out of the runner-up, not set to -10; the
          cross-entropy of the search is not cut at 80; variants that hold a weight per pixel, the
          residual one and the L1 norm (which crashes there) are left out; bf16
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypedDict

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.defenses.npd.adversary import Adversary, misled
from backdoor_lab.defenses.npd.polarizer import Kind, place, polarizer
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import freeze_except, parameter_count, replace
from backdoor_lab.training import Recipe, Tuning, constant, frozen_statistics, sgd
from backdoor_lab.validation import Count, Index, Momentum, NonNegative, Positive, validated


class Weights(TypedDict):
    """Of the four terms of `polarizing`."""

    clean: NonNegative
    answer: NonNegative
    wrong: NonNegative
    target: NonNegative


def runner_up(scores: Tensor, labels: Tensor) -> Tensor:
    """The highest (N,) of `scores` (N, classes) but for each sample's own class (N,)."""
    return scores.scatter(1, labels[:, None], -torch.inf).argmax(1)


def unlikely(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Mean of -log(1.0001 - p) of `probabilities` (N, classes) of one class (N,) each."""
    return -(1.0001 - probabilities.gather(1, classes[:, None])).log().mean()


def polarizing(
    clean: Tensor, hard: Tensor, labels: Tensor, answer: Tensor, target: Tensor, weights: Weights
) -> Tensor:
    """The loss of logits (N, classes) of `clean` images and of misled ones (`hard`).

    CE(clean, labels), and for the misled ones: CE to the `answer` (N,) that their clean image got,
    and the probabilities of their likeliest wrong class and of their `target` (N,) pressed down.
    """
    probabilities = hard.float().softmax(1)
    return (
        weights["clean"] * F.cross_entropy(clean, labels)
        + weights["answer"] * F.cross_entropy(hard, answer)
        + weights["wrong"] * unlikely(probabilities, runner_up(probabilities, labels))
        + weights["target"] * unlikely(probabilities, target)
    )


class NPD(Defense):
    """Trains the polarizer alone: clean answers for clean images and for images led astray.

    Args:
        layer: the convolution before which it stands; None: found (`polarizer.place`).
        polarizer: its layers, see there.
        warm_epochs: on clean images, its BatchNorm in training mode: it learns the statistics.
        warm_lr: of plain SGD meanwhile.
        adversary: how images are led to the class that comes second.
        weights: of the terms of the loss.
        batch_statistics: whether its BatchNorm goes on in training mode in the step itself,
            learning from clean images.
        epochs: passes over the images after the warm-up.
        lr: learning rate, constant.
        momentum: of SGD.
        weight_decay: on the polarizer.
        batch_size: images a step in both phases.
    """

    keeps_architecture = False

    @validated
    def __init__(
        self,
        layer: str | None,
        polarizer: Kind,
        warm_epochs: Index,
        warm_lr: Positive,
        adversary: Adversary,
        weights: Weights,
        batch_statistics: bool,
        epochs: Count,
        lr: Positive,
        momentum: Momentum,
        weight_decay: NonNegative,
        batch_size: Count,
    ) -> None:
        super().__init__()
        self.layer, self.kind, self.warm_epochs = layer, polarizer, warm_epochs
        self.adversary, self.weights = adversary, weights
        self.batch_statistics = batch_statistics
        plain = sgd(momentum=0, weight_decay=0)
        self.warm_up = Recipe(max(1, warm_epochs), batch_size, warm_lr, plain, constant)
        self.recipe = Recipe(epochs, batch_size, lr, sgd(momentum, weight_decay), constant)

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        self.place(model)

    def place(self, model: nn.Module) -> str:
        """Path of the convolution of `model` before which the polarizer stands."""
        path = self.layer or place(model, self.spec.shape)
        if path is None:
            raise ConfigError(
                f"model without a convolution that BatchNorm or another one follows, but "
                f"{self.choice} stands before one; allowed: a convolutional model, or "
                f"{self.key}.layer"
            )
        found = dict(model.named_modules()).get(path)
        if type(found) is not nn.Conv2d:  # descendants of it cannot be told as text
            raise ConfigError(
                f"{self.key}.layer={path} is no Conv2d of this model; allowed: the path of one, "
                "such as net.layer4.1.conv1, or null"
            )
        return path

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        data, path = aux.labelled_data, self.place(model)
        conv: nn.Conv2d = model.get_submodule(path)  # type: ignore[assignment]
        self.polarizer = polarizer(self.kind, conv.in_channels)
        replace(model, path, nn.Sequential(self.polarizer, conv))
        freeze_except(model, self.polarizer)
        size = parameter_count(self.polarizer)
        self.details = {"layer": path, "channels": conv.in_channels, "weights": size}
        if self.warm_epochs:
            warm_up = Tuning(model, self.warm_up, augment=None, seed=self.seed)
            self.engine.fit(warm_up, data, "npd warm-up")
        self.fit(model, data, augment=None)
        del self.polarizer
        return model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.polarizer.eval()
        with torch.no_grad():
            before = self.model(images)
        target = runner_up(before, labels)
        led = misled(self.model, images, target, self.adversary)
        self.polarizer.train(self.batch_statistics)
        clean = self.model(images)
        with frozen_statistics(self.polarizer):
            hard = self.model(led)
        return polarizing(clean, hard, labels, before.argmax(1), target, self.weights)
