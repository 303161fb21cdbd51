"""How far triggered images are from clean ones."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)


def stealth(clean: Tensor, triggered: Tensor) -> dict[str, float]:
    """Means over images (N, C, H, W) uint8: `psnr` (dB), `ssim`, `linf` and `l2` (grey levels).

    `linf` is the largest change of an image, `l2` the root of the sum of its squared changes.
    Images that stayed as they were (a white patch on white) do not count: their PSNR is infinite.
    """
    changed = (clean != triggered).flatten(1).any(1)
    before, after = clean[changed].float(), triggered[changed].float()
    change = (after - before).flatten(1)
    psnr = peak_signal_noise_ratio(after, before, data_range=255.0, dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(after, before, data_range=255.0)
    assert isinstance(ssim, Tensor)
    return {
        "psnr": psnr.item(),
        "ssim": ssim.item(),
        "linf": change.abs().amax(1).mean().item(),
        "l2": change.norm(dim=1).mean().item(),
    }
