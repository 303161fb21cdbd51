"""The machine that trains and evaluates: device, precision, loggers, progress."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from backdoor_lab.callbacks import EpochLoss, FitProgress, Resume
from backdoor_lab.datasets._images import ImageSet
from backdoor_lab.errors import ConfigError
from backdoor_lab.training.batches import Batches, Streamed
from backdoor_lab.training.supervised import Supervised
from backdoor_lab.validation import Count, Index, Share, validated


class Engine:
    """Trains modules and runs models on one device.

    Args:
        accelerator: `auto`, `cpu` or `gpu`.
        precision: `auto` (bf16 where the device computes it), `bf16-mixed` or `32-true`.
        compile: whether models pass through `torch.compile`.
        progress: show progress bars on a terminal.
        memory_share: sets up to this share of the device's free memory live on the device.
        eval_batch_size: images a batch where nothing is trained.
        workers: processes that cut batches of sets too large for the device.
    """

    @validated
    def __init__(
        self,
        accelerator: Literal["auto", "cpu", "gpu"] = "auto",
        precision: Literal["auto", "bf16-mixed", "32-true"] = "auto",
        compile: bool = False,
        progress: bool = True,
        memory_share: Share = 0.5,
        eval_batch_size: Count = 512,
        workers: Index = 2,
    ) -> None:
        self.device = _device(accelerator)
        self.precision = _precision(self.device) if precision == "auto" else precision
        self.compile = compile
        self.progress = progress
        self.memory_share = memory_share
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.logger: Logger | None = None
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in fp32
        torch.backends.cudnn.benchmark = True  # every batch of a training has the same shape

    def fit(
        self,
        module: Supervised,
        data: ImageSet,
        title: str,
        callbacks: Sequence[Callback] = (),
        folder: Path | None = None,
    ) -> None:
        """Train `module` on `data` by its own recipe; with a `folder`, resume from it."""
        recipe = module.recipe
        batches = self.batches(
            data,
            recipe.batch_size,
            seed=module.seed,
            augment=module.augment,
            drop_last=recipe.drop_last,
        )
        if len(batches) == 0:
            raise ConfigError(f"{title}: {len(data)} image(s) make no batch; at least 2 are needed")
        module.steps_per_epoch = len(batches)
        extra: list[Callback] = [EpochLoss(title), FitProgress(title, self.progress)]
        if folder is not None:
            extra.append(Resume(folder))
        module.model.to(memory_format=torch.channels_last)
        module.train()
        self._run(module, batches, recipe.epochs, [*callbacks, *extra], folder)
        module.to(self.device)
        module.model.eval()

    def _run(
        self,
        module: Supervised,
        batches: Batches,
        epochs: int,
        callbacks: list[Callback],
        folder: Path | None,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Trainer(
                accelerator="gpu" if self.device.type == "cuda" else "cpu",
                devices=1,
                precision=self.precision,  # type: ignore[arg-type]
                max_epochs=epochs,
                logger=self.logger or False,
                callbacks=callbacks,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                log_every_n_steps=50,
            )
            checkpoint = Resume.found(folder)
            if self.compile:
                module.model.compile()
            trainer.fit(module, batches, ckpt_path=checkpoint, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt

    def batches(self, data: ImageSet, batch_size: int, **options: Any) -> Batches:
        """Batches on the device: resident where the set fits, else streamed."""
        if data.device == self.device or data.nbytes <= self.memory_share * self._free():
            return Batches(data.to(self.device), batch_size, **options)
        streamed = Streamed(data, batch_size, device=self.device, **options)
        streamed.workers = self.workers
        return streamed

    def _free(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return psutil.virtual_memory().available

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision as in training."""
        enabled = self.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[nn.Module]:
        """`model` on the device, in eval mode, without gradients."""
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.eval()
        with torch.inference_mode(), self.autocast():
            yield model

    def predict(self, model: nn.Module, data: ImageSet) -> Tensor:
        """Logits (N, classes) fp32 of a set, on the device."""
        batches = self.batches(data, self.eval_batch_size, shuffle=False)
        with self.evaluating(model):
            logits = [model(images) for images, _ in whole(batches)]
        return torch.cat(logits).float()

    def accuracy(self, model: nn.Module, data: ImageSet) -> float:
        """Share of a set that `model` classifies as labelled."""
        predicted = self.predict(model, data).argmax(1)
        return (predicted == data.labels.to(self.device)).double().mean().item()


def whole(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image, a last batch of one included: evaluation drops nothing."""
    yield from batches
    rest = len(batches.data) - len(batches) * batches.batch_size
    if rest == 1:
        last = torch.tensor([len(batches.data) - 1], device=batches.data.device)
        image = batches.data.cut(last).to(batches.device)
        yield image.float().div(255), batches.data.labels[last].to(batches.device)


def _device(accelerator: str) -> torch.device:
    available = torch.cuda.is_available()
    if accelerator == "gpu" and not available:
        raise ConfigError("trainer.accelerator=gpu, but PyTorch sees no GPU; allowed: cpu, auto")
    return torch.device("cuda", 0) if available and accelerator != "cpu" else torch.device("cpu")


def _precision(device: torch.device) -> str:
    """bf16 where the device has instructions for it; emulated, it would be slower than fp32."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if has_bf16 else "32-true"
