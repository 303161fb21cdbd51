"""Independent random streams from one seed."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose (`"poison"`, `"init"`, `"order"`...), apart from all others."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose, so that no draw shifts another."""
    return torch.Generator(device).manual_seed(derive(seed, purpose))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """For what draws from PyTorch's global generator, such as layers; its state is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
