"""The smallest network that defenses of batch normalisation have a hold on, and its images."""

import torch
import torch.nn.functional as F
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.datasets import DataSpec, ImageSet

SPEC = DataSpec("tiny", ("a", "b"), (3, 8, 8), (0.5,) * 3, (0.5,) * 3, 1, True)


class Tiny(nn.Module):
    """Two convolutions with BatchNorm, and a head; images (N, 3, 8, 8) to logits (N, 2)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(8, 2)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


def drawn_tiny():
    """A tiny network in eval mode whose BatchNorm entries and statistics are all different."""
    torch.manual_seed(0)
    model = Tiny()
    with torch.no_grad():
        for norm in (model.body[1], model.body[4]):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return model.eval()


def stepped(model, optimizer, batch):
    """The loss of `model` at one step of an optimizer that wants a closure."""

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    return optimizer.step(closure)


def tiny_aux(count):
    """A labelled auxiliary set of `count` random images (3, 8, 8) of two classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return AuxiliarySet("seen", ImageSet.of(images, torch.arange(count) % 2), True)
