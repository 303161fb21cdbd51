"""NAD: fine-tunes while aligning attention maps with those of a fine-tuned teacher.

Paper     Li et al., "Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural
          Networks", ICLR 2021
Differs   where a resolution is left is found in any architecture, and maps of one pixel, whose
          attention is 1 whatever the image, are refused: BackdoorBench takes the pooled output of
          all models but PreAct-ResNet18, where nothing is distilled; one pass of the student a
          step, so that BatchNorm sees a batch once; the last epoch is kept, where the authors look
          at test accuracy; no cutout; under `protocol=bb` the teacher's rate is constant as the
          student's, where BackdoorBench's falls by 2% at most; bf16, attention in fp32
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import freeze, outputs
from backdoor_lab.models.stages import outlets
from backdoor_lab.training import Recipe, Tuning, constant, cosine, multi_step, sgd
from backdoor_lab.validation import Count, Momentum, NonNegative, Positive, validated


def attention(maps: Tensor, power: float) -> Tensor:
    """Attention (N, H, W) of maps (N, C, H, W): sum over C of |F|^p, by its norm over H and W."""
    summed = maps.float().abs().pow(power).sum(1)
    return summed / (summed.norm(dim=(1, 2), keepdim=True) + 1e-6)


class NAD(Defense):
    """Cross-entropy plus sum_l beta_l MSE(attention_l(student), attention_l(teacher)).

    The teacher is the victim after a plain fine-tuning; the student starts as the victim again.

    Args:
        teacher_epochs: passes over the images of the teacher's fine-tuning.
        epochs: of the student's.
        lr: learning rate of both, at its start.
        schedule: of the rate: `steps`, a tenth after two epochs, a thousandth after 20; `constant`;
            `cosine`.
        t_max: epochs of the half cosine; None: all.
        momentum: of SGD.
        nesterov: momentum looks ahead.
        weight_decay: on all parameters.
        batch_size: images a step.
        betas: weights of the last so many resolutions of at least 2x2, the largest first.
        power: p of the attention.
    """

    @validated
    def __init__(
        self,
        teacher_epochs: Count,
        epochs: Count,
        lr: Positive,
        schedule: Literal["steps", "constant", "cosine"],
        t_max: Count | None,
        momentum: Momentum,
        nesterov: bool,
        weight_decay: NonNegative,
        batch_size: Count,
        betas: Annotated[list[NonNegative], Field(min_length=1)],
        power: Positive,
    ) -> None:
        super().__init__()
        self.betas, self.power = betas, power
        schedules: dict[str, Callable[..., dict[str, Any]]] = {
            "steps": partial(multi_step, milestones=[2, 20, 20]),
            "constant": constant,
            "cosine": partial(cosine, t_max=t_max),
        }
        descent = sgd(momentum, weight_decay, nesterov)
        self.recipe = Recipe(epochs, batch_size, lr, descent, schedules[schedule])
        self.teacher_recipe = replace(self.recipe, epochs=teacher_epochs)

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        self.places(model)

    def places(self, model: nn.Module) -> list[str]:
        """The modules of `model` whose outputs are aligned, in the order of `betas`.

        Raises:
            ConfigError: there are fewer maps of at least 2x2 pixels.
        """
        sizes = {n: s for n, s in outlets(model, self.spec.shape).items() if min(s) > 1}
        if len(sizes) < len(self.betas):
            raise ConfigError(
                f"{self.key}.betas={self.betas} align {len(self.betas)} resolutions, but this "
                f"model has {len(sizes)} of at least 2x2; allowed: at most as many, or a larger "
                "image"
            )
        chosen = list(sizes)[-len(self.betas) :]
        self.details["layers"] = {name: "x".join(map(str, sizes[name])) for name in chosen}
        return chosen

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        data, self.layers = aux.labelled_data, self.places(model)
        tuning = Tuning(deepcopy(model), self.teacher_recipe, self.crop_flip, self.seed)
        self.engine.fit(tuning, data, "nad teacher")
        self.teacher = freeze(tuning.model)
        look = partial(attention, power=self.power)
        with (
            outputs(model, self.layers, look) as self.given,
            outputs(self.teacher, self.layers, look) as self.wanted,
        ):
            self.fit(model, data)
        del self.teacher, self.given, self.wanted
        return model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One pass of each, `forward` and no call: `torch.compile` knows a graph without hooks."""
        images, labels = batch
        with torch.no_grad():
            self.teacher.forward(images)
        loss = F.cross_entropy(self.model.forward(images), labels)
        for beta, layer in zip(self.betas, self.layers, strict=True):
            loss = loss + beta * F.mse_loss(self.given[layer], self.wanted[layer])
        return loss
