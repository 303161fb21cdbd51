"""What a model costs to run, and what a piece of work costs in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backdoor_lab.datasets import DataSpec
from backdoor_lab.models import parameter_count
from backdoor_lab.records import Cost
from backdoor_lab.training import Engine

BATCH, ROUNDS, SECONDS = 64, 7, 2.0
PROCESS = Path("/proc/self")


def measure(models: Mapping[str, nn.Module], spec: DataSpec, engine: Engine) -> dict[str, Cost]:
    """The cost of each model on the engine's device; their passes are timed turn by turn."""
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(engine.evaluating(model))
        batch = torch.zeros(BATCH, *spec.shape, device=engine.device)
        times = timed(models, batch.to(memory_format=torch.channels_last))
        return {
            name: Cost(
                parameter_count(model),
                flops(model, batch[:1]),
                1000 * median(times[name]),
            )
            for name, model in models.items()
        }


def flops(model: nn.Module, image: Tensor) -> int:
    """Of a forward pass of `image` (1, C, H, W)."""
    with FlopCounterMode(display=False) as counter:
        model.forward(image)
    return int(counter.get_total_flops())


def timed(models: Mapping[str, nn.Module], batch: Tensor) -> dict[str, list[float]]:
    """Seconds of the passes of `batch` (N, C, H, W), after one that warms up; at least one each."""
    for model in models.values():
        _seconds(model, batch)
    times: dict[str, list[float]] = {name: [] for name in models}
    start = time.perf_counter()
    for _ in range(ROUNDS):
        for name, model in models.items():
            times[name].append(_seconds(model, batch))
        if time.perf_counter() - start > SECONDS:
            break
    return times


def _seconds(model: nn.Module, batch: Tensor) -> float:
    _settle(batch.device)
    start = time.perf_counter()
    model.forward(batch)  # not what `torch.compile` may have made of one model alone
    _settle(batch.device)
    return time.perf_counter() - start


def _settle(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """The most memory that was held while a block ran.

    On a GPU what PyTorch had allocated there; else what the process had resident, on Linux.

    Attributes:
        mb: in MB of 2^20 bytes, known after the block; None where nothing can tell.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mb: float | None = None

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.known = True
        else:
            self.known = _peak_forgotten()
        return self

    def __exit__(self, *_: object) -> None:
        if self.known and self.device.type == "cuda":
            self.mb = torch.cuda.max_memory_allocated(self.device) / 2**20
        elif self.known:
            self.mb = _resident_peak() / 2**10


def _peak_forgotten() -> bool:
    """Let Linux forget this process's peak of resident memory; False where it cannot."""
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident_peak() -> int:
    """In KiB."""
    status = (PROCESS / "status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
