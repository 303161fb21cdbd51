"""Where a run computes, and in which precision."""

from __future__ import annotations

import os
import platform

import torch

from backdoor_lab.errors import ConfigError


def chosen_device(accelerator: str, index: int | None) -> torch.device:
    """The GPU `index` (None: the first that is visible), or the CPU.

    Raises:
        ConfigError: there is no such GPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator == "gpu" and not count:
        raise ConfigError("trainer.accelerator=gpu, but PyTorch sees no GPU; allowed: cpu, auto")
    if accelerator == "cpu" or not count:
        return torch.device("cpu")
    if (index or 0) >= count:
        raise ConfigError(
            f"trainer.devices=[{index}], but PyTorch sees {count} GPU(s); allowed: [0] to "
            f"[{count - 1}]"
        )
    return torch.device("cuda", index or 0)


def kind_of(device: torch.device) -> str:
    """What computes, in words: a GPU's name, or the CPU's architecture and cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def resolved_precision(device: torch.device, wish: str = "auto") -> str:
    """`wish`; of `auto` bf16 where the device has instructions for it: emulated it is slow."""
    if wish != "auto":
        return wish
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if has_bf16 else "32-true"
