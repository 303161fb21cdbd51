"""Independent random streams from one seed."""

import hashlib

import torch


def derive(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose (`"poison"`, `"init"`, `"order"`...), apart from all others."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose, so that no draw shifts another."""
    return torch.Generator(device).manual_seed(derive(seed, purpose))
