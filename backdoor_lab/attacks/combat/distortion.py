"""COMBAT's trigger: low-pass noise of a generator, then a faint blur."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backdoor_lab.attacks.combat.frequency import blur, dct_low_pass


class Distortion(nn.Module):
    """`Blur(clamp(x + noise_rate * dct_low_pass(unet(x)), -1, 1))`, handed images in [0, 1]."""

    def __init__(
        self, unet: nn.Module, noise_rate: float, ratio: float, sigma: tuple[float, float]
    ) -> None:
        super().__init__()
        self.unet = unet
        self.noise_rate, self.ratio, self.sigma = noise_rate, ratio, sigma

    def forward(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Triggered images (N, C, H, W) in [0, 1]; `generator` draws the blurs, None: no blur."""
        centred = images * 2 - 1
        noise = dct_low_pass(self.unet(centred), self.ratio)
        changed = (centred + self.noise_rate * noise).clamp(-1, 1) / 2 + 0.5
        if generator is None:
            return changed
        low, high = self.sigma
        uniform = torch.rand(len(images), generator=generator, device=images.device)
        return blur(changed, low + (high - low) * uniform)
