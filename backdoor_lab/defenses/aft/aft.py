"""AFT: distils the victim into a purified model on synthetic images, but not on adversarial ones.

Paper     Phan et al., "Clean and Compact: Efficient Data-Free Backdoor Defense with Model
          Compactness", ECCV 2024, Eqs. 9 and 10
Differs   what the paper leaves open: distances of logits, batch means of their squared norms;
          steps of 2.5 radius / number, from the image itself, BatchNorm in eval mode; statistics
          run along with the synthetic images, not with the adversarial ones; images in 8 bits
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.callbacks.masked_gradients import MaskedGradients
from backdoor_lab.console import progress_bar
from backdoor_lab.datasets import ImageSet, nearest
from backdoor_lab.defenses._base import Defense, batch_norms
from backdoor_lab.defenses.aft.synthesis import synthesise
from backdoor_lab.models import freeze, frozen_copy
from backdoor_lab.seeds import generator_for
from backdoor_lab.training import Recipe, constant, frozen_statistics
from backdoor_lab.validation import Count, NonNegative, Positive, validated


def adversarial(
    model: nn.Module, images: Tensor, labels: Tensor, radius: float, steps: int
) -> Tensor:
    """Images (N, C, H, W) in [0, 1] that `model` takes less readily for `labels` (N,).

    x + d, ||d||_2 <= radius: `steps` of 2.5 radius / steps up the gradient of CE(model(x + d), y),
    each of unit length, back into the ball and into [0, 1].
    """
    delta = torch.zeros_like(images)
    for _ in range(steps):
        leaf = delta.requires_grad_()
        loss = F.cross_entropy(model(images + leaf).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        length = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
        delta = leaf.detach() + 2.5 * radius / steps * gradient / (length + 1e-12)
        delta = torch.renorm(delta, 2, 0, radius)
        delta = (images + delta).clamp(0, 1) - images
    return images + delta


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Batch mean of ||first - second||^2 of logits (N, classes)."""
    return (first.float() - second.float()).square().sum(1).mean()


class AFT(Defense):
    """Tunes the BatchNorm layers alone, near the victim on x and far from it on x + d.

    min ||T(x) - S(x)||^2 - gamma ||T(x + d) - S(x + d)||^2 over synthetic x, where T is the victim
    as it came and S the model that is tuned; x and d are made for S. `details` tell how T answers
    x + d, by class: mostly the target, where they stand for triggered images (paper, Figure 4).

    Args:
        images: how many are synthesised, classes in turn.
        synthesis_iterations: Adam steps of each batch of them.
        synthesis_lr: of these steps, on normalised pixels.
        radius: L2 norm of d at most, for images in [0, 1].
        attack_iterations: gradient steps that find d.
        gamma: weight of the second term.
        freeze_statistics: tune under the running statistics, which stay as they are.
        keep_pruned: entries of BatchNorm that are 0 stay 0.
        epochs: passes over the synthetic images.
        lr: of Adam on the BatchNorm layers.
        batch_size: images a step, and of a synthesis.
    """

    needs_images = False
    needs_labels = False
    needs_batch_norm = True
    answers: Tensor

    @validated
    def __init__(
        self,
        images: Count,
        synthesis_iterations: Count,
        synthesis_lr: Positive,
        radius: Positive,
        attack_iterations: Count,
        gamma: NonNegative,
        freeze_statistics: bool,
        keep_pruned: bool,
        epochs: Count,
        lr: Positive,
        batch_size: Count,
    ) -> None:
        super().__init__()
        self.images, self.synthesis_lr = images, synthesis_lr
        self.synthesis_iterations = synthesis_iterations
        self.radius, self.attack_iterations = radius, attack_iterations
        self.gamma = gamma
        self.freeze_statistics, self.keep_pruned = freeze_statistics, keep_pruned
        self.recipe = Recipe(epochs, batch_size, lr, partial(torch.optim.Adam), constant)

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        del aux
        return self.distil(model, self.synthesised(model))

    def synthesised(self, model: nn.Module) -> ImageSet:
        """Images whose statistics in `model` are those that it stores."""
        device, count = self.engine.device, self.spec.num_classes
        source = frozen_copy(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        stacked = torch.tensor([self.spec.mean, self.spec.std], device=device)
        scale = stacked[0].view(1, -1, 1, 1), stacked[1].view(1, -1, 1, 1)
        generator = generator_for(self.seed, "synthesis", device)
        iterations = 1 if self.engine.dry else self.synthesis_iterations
        labels = torch.arange(self.images, device=device) % count
        made, terms = [], []
        with progress_bar(self.engine.progress) as bar:
            for wanted in bar.track(labels.split(self.recipe.batch_size), description="synthesis"):
                shape = (len(wanted), *self.spec.shape)
                noise = torch.randn(shape, generator=generator, device=device)
                noise = noise.to(memory_format=torch.channels_last)
                with self.engine.autocast():
                    images, last = synthesise(
                        source, wanted, noise, scale, iterations, self.synthesis_lr
                    )
                made.append(nearest(images * 255))
                terms.append(last)
        mismatch, wrong = torch.stack(terms).mean(0).tolist()
        self.details["synthesis"] = {"mismatch": mismatch, "cross_entropy": wrong}
        return ImageSet.of(torch.cat(made), labels)

    def distil(self, model: nn.Module, data: ImageSet) -> nn.Module:
        """`model` after its BatchNorm layers were tuned on `data`."""
        norms = batch_norms(model)
        only(model, norms, self.freeze_statistics)
        held = {}
        if self.keep_pruned:
            entries = [f"{name}.{entry}" for name in norms for entry in ("weight", "bias")]
            held = {name: model.get_parameter(name).detach() == 0 for name in entries}
        self.teacher = self.original()
        self.register_buffer("answers", torch.zeros(self.spec.num_classes))
        self.fit(model, data, [MaskedGradients(held)] if held else [], augment=None)
        self.details["adversarial_answers"] = (self.answers / self.answers.sum()).tolist()
        del self.teacher, self.answers
        return model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        hard = self.attacked(images, labels)
        with torch.no_grad():
            wanted, unwanted = self.teacher(images), self.teacher(hard)
        classes = torch.arange(len(self.answers), device=unwanted.device)
        self.answers += (unwanted.argmax(1, keepdim=True) == classes).sum(0)
        near = distance(self.model(images), wanted)
        with frozen_statistics(self.model):
            far = distance(self.model(hard), unwanted)
        return near - self.gamma * far

    def attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial images for the model as it would be deployed."""
        self.model.eval()
        try:
            return adversarial(self.model, images, labels, self.radius, self.attack_iterations)
        finally:
            self.train()


def only(model: nn.Module, norms: dict[str, nn.BatchNorm2d], freeze_statistics: bool) -> None:
    """Freeze all of `model` but scale and shift of `norms`, which may keep their statistics."""
    freeze(model)
    for norm in norms.values():
        norm.requires_grad_(True).frozen = freeze_statistics  # type: ignore[assignment]
