"""Tensors on their way into a file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def plain(state: dict[str, Any]) -> dict[str, Tensor]:
    """Contiguous CPU copies, as safetensors wants them."""
    return {
        name: value.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
