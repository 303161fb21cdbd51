"""Which versions a number was made with."""

from __future__ import annotations

from importlib.metadata import version

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "timm", "torchmetrics", "wandb")


def versions() -> dict[str, str]:
    """Of this package and of those whose numbers change results."""
    from backdoor_lab import __version__

    return {"backdoor_lab": __version__} | {name: version(name) for name in PACKAGES}


def show_versions() -> None:
    """Write the versions to the terminal, a line each."""
    from backdoor_lab.console import console

    console().print("\n".join(f"{name} {number}" for name, number in versions().items()))
