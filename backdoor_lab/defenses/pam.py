"""PAM: tunes along the path back to the victim, on images that a generator has reversed.

Paper     Min et al., "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor
          Defense", NeurIPS 2024, arXiv:2410.09838
Differs   from the authors' code: the generator is that of `detector=bti_dbf` here, which says what
          is other in it; it is made anew each round, of at most `images` images as they are, where
          theirs goes on, of all images, cropped and flipped, and is never pulled to a suspected
          target; BatchNorm's running statistics are taken anew at the end, since the steps gather
          them off the weights that are kept; each round starts its own SGD, and all draw the same
          orders; bf16
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import get_total_norm

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import ImageSet
from backdoor_lab.defenses._base import Defense
from backdoor_lab.detectors.bti_dbf.decoupling import Reversal, benign_mask, reversal
from backdoor_lab.models import Classifier, frozen_copy
from backdoor_lab.seeds import derive
from backdoor_lab.training import Recipe, as_floats, constant
from backdoor_lab.validation import Count, Momentum, NonNegative, Positive, Rate, validated


class PAM(Defense):
    """Descends by the gradient taken `rho` along the way back to the victim's weights.

    With d = theta_victim - theta, a step uses the gradient at theta + rho d / ||d||, of the
    cross-entropy of a batch in which some images are reversed by a generator and keep their labels:
    where the loss is low there too, a few triggered images do not lead back.

    Args:
        rho: how far the gradient is taken from the weights, as one norm over all of them.
        reversed_share: of each batch that the generator reverses; one image more, rounded down.
        rounds: of training a generator, and tuning.
        images: that a generator is trained on, at most.
        mask_iterations: of Adam, for the features that the generator spares.
        mask_lr: of Adam.
        generator_iterations: of Adam, for the generator.
        generator_width: channels of its first level.
        generator_lr: of Adam.
        generator_batch_size: images a step.
        image_bound: mean squared change of the images, in normalised units, that is allowed.
        feature_bound: mean squared change of the spared features that is allowed.
        benign: weight of that change where both are kept.
        epochs: of each round's tuning.
        lr: of it, constant.
        momentum: of SGD.
        batch_size: images a step.
    """

    @validated
    def __init__(
        self,
        rho: NonNegative,
        reversed_share: Rate,
        rounds: Count,
        images: Count,
        mask_iterations: Count,
        mask_lr: Positive,
        generator_iterations: Count,
        generator_width: Count,
        generator_lr: Positive,
        generator_batch_size: Count,
        image_bound: Positive,
        feature_bound: Positive,
        benign: NonNegative,
        epochs: Count,
        lr: Positive,
        momentum: Momentum,
        batch_size: Count,
    ) -> None:
        super().__init__()
        self.rho, self.reversed_share, self.rounds = rho, reversed_share, rounds
        self.images, self.mask_iterations, self.mask_lr = images, mask_iterations, mask_lr
        self.how = Reversal(
            width=generator_width,
            steps=generator_iterations,
            batch_size=generator_batch_size,
            lr=generator_lr,
            image_bound=image_bound,
            feature_bound=feature_bound,
            benign=benign,
        )
        optimizer = partial(torch.optim.SGD, momentum=momentum)
        self.recipe = Recipe(epochs, batch_size, lr, optimizer, constant)

    def purify(self, model: nn.Module, aux: AuxiliarySet) -> nn.Module:
        data = aux.labelled_data
        device = self.engine.device
        self.home = {name: w.detach().clone().to(device) for name, w in model.named_parameters()}
        for number in range(1 if self.engine.dry else self.rounds):
            self.reverse = self.reversal_of(model, data, number)
            self.fit(model, data)
        self.engine.refresh_statistics(model, data, self.recipe.batch_size)
        del self.home, self.reverse
        return model.eval()

    def reversal_of(self, model: nn.Module, data: ImageSet, number: int) -> nn.Module:
        """A generator whose images keep what `model` knows of their class, and change the rest."""
        seed = derive(self.seed, f"round {number}")
        source = frozen_copy(model).to(self.engine.device)
        assert isinstance(source, Classifier)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        some = data.take(order[: self.images].to(data.device)).to(self.engine.device)
        images = as_floats(some.images)

        def features(batch: Tensor) -> Tensor:
            with self.engine.autocast():
                return source.features(batch).float()

        with torch.no_grad():
            known = features(images)
        steps = 1 if self.engine.dry else self.mask_iterations
        mask = benign_mask(source.head, known, some.labels, steps, self.mask_lr, seed)
        how = self.how.copy()
        how["steps"] = 1 if self.engine.dry else how["steps"]
        return reversal(features, images, mask, source.normalize.std, how, seed)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        count = int(self.reversed_share * len(images) + 1)
        with torch.no_grad():
            images = torch.cat([self.reverse(images[:count]), images[count:]])
        return F.cross_entropy(functional_call(self.model, self.onward(), images), labels)

    def onward(self) -> dict[str, Tensor]:
        """The weights, moved by `rho` towards the victim's; their gradients are the weights'."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            back = {name: self.home[name] - weight for name, weight in own.items()}
            scale = self.rho / (get_total_norm(back.values()) + 1e-12)
        return {name: weight + scale * back[name] for name, weight in own.items()}
