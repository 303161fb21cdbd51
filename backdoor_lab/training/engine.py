"""The machine that trains and evaluates: device, precision, loggers, progress."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from math import ceil
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchmetrics.functional.classification import multiclass_accuracy

from backdoor_lab.callbacks import EpochLoss, Finite, FitProgress, LayerDraws, Resume
from backdoor_lab.datasets import ImageSet
from backdoor_lab.device import chosen_device, resolved_precision
from backdoor_lab.errors import ConfigError, DivergedError
from backdoor_lab.training.batches import Batches, Streamed, whole
from backdoor_lab.training.manual import Manual
from backdoor_lab.training.supervised import Supervised
from backdoor_lab.validation import Count, Fraction, Index, Positive, Rate, validated


class Engine:
    """Trains modules and runs models on one device.

    Args:
        accelerator: `auto`, `cpu` or `gpu`.
        devices: which GPU, a list of one index; None: the first that is visible.
        threads: of PyTorch on the CPU; None: as the environment says.
        precision: `auto` (bf16 where the device computes it), `bf16-mixed` or `32-true`.
        compile: whether models pass through `torch.compile`.
        progress: show progress bars on a terminal.
        memory_share: sets up to this share of the device's free memory live on the device.
        eval_batch_size: images a batch where nothing is trained.
        workers: processes that cut batches of sets too large for the device.
        limit_train_batches: at most so many batches an epoch, a number or a share; None: all.
        fast_dev_run: every training is one step, to try that all goes through.
        gradient_clip_val: largest norm of an optimizer's gradients; None: any.
        callbacks: Lightning callbacks by name; each training gets copies.
        resume_every: seconds between two states of a training, from which it resumes if killed.
    """

    @validated
    def __init__(
        self,
        accelerator: Literal["auto", "cpu", "gpu"] = "auto",
        devices: list[Index] | None = None,
        threads: Count | None = None,
        precision: Literal["auto", "bf16-mixed", "32-true"] = "auto",
        compile: bool = False,
        progress: bool = True,
        memory_share: Fraction = 0.5,
        eval_batch_size: Count = 512,
        workers: Index = 2,
        limit_train_batches: Count | Rate | None = None,
        fast_dev_run: bool = False,
        gradient_clip_val: Positive | None = None,
        callbacks: dict[str, Any] | None = None,
        resume_every: Index = 20,
    ) -> None:
        if devices is not None and len(devices) != 1:
            raise ConfigError(
                f"trainer.devices={devices}: a run computes on one device; allowed: null, or a "
                "list of one index such as [1]"
            )
        self.device = chosen_device(accelerator, devices[0] if devices else None)
        self.precision = resolved_precision(self.device, precision)
        self.compile = compile
        self.progress = progress
        self.memory_share = memory_share
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.limit, self.dry, self.clip = limit_train_batches, fast_dev_run, gradient_clip_val
        self.resume_every = resume_every
        self.callbacks = list((callbacks or {}).values())
        self.check_callbacks()
        self.logger: Logger | None = None
        if threads is not None:
            torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in fp32
        torch.backends.cudnn.benchmark = True  # every batch of a training has the same shape

    def check_callbacks(self) -> None:
        """Refuse what Lightning would choke on in the first training."""
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise ConfigError(
                    f"trainer.callbacks holds a {type(callback).__name__}; allowed: nodes whose "
                    "_target_ is a lightning.Callback"
                )

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
        module.steps_per_epoch = self.steps(len(batches))
        progress = FitProgress(title, self.progress, recipe.batch_size)
        extra: list[Callback] = [LayerDraws(), EpochLoss(title), Finite(title), progress]
        if folder is not None and not self.dry:
            extra.append(Resume(folder, self.resume_every))
        module.model.to(memory_format=torch.channels_last)
        module.train()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # `LayerDraws` seeds the global generator
            self._run(module, batches, [*callbacks, *deepcopy(self.callbacks), *extra], folder)
        module.to(self.device)
        module.model.eval()

    def steps(self, batches: int) -> int:
        """How many of an epoch's `batches` are trained on."""
        if self.dry:
            return 1
        if isinstance(self.limit, float):
            return max(1, int(batches * self.limit))
        return min(batches, self.limit or batches)

    def _run(
        self,
        module: Supervised,
        batches: Batches,
        callbacks: list[Callback],
        folder: Path | None,
    ) -> None:
        if isinstance(module, Manual):
            module.clip_value = self.clip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Trainer(
                accelerator="gpu" if self.device.type == "cuda" else "cpu",
                devices=1 if self.device.type == "cpu" else [self.device.index],
                precision=module.precision or self.precision,  # type: ignore[arg-type]
                max_epochs=1 if self.dry else module.recipe.epochs,
                limit_train_batches=module.steps_per_epoch,
                gradient_clip_val=None if isinstance(module, Manual) else self.clip,
                logger=self.logger or False,
                callbacks=callbacks,
                plugins=[LightningEnvironment()],  # SLURM's signals are left to those who requeue
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                log_every_n_steps=50,
            )
            checkpoint = None if self.dry else Resume.found(folder)
            if self.compile:
                module.model.compile()
            trainer.fit(module, batches, ckpt_path=checkpoint, weights_only=True)

    @torch.no_grad()
    def refresh_statistics(self, model: nn.Module, data: ImageSet, batch_size: int = 128) -> None:
        """Set the running statistics of BatchNorm, in place, to plain means over `data`.

        Batches are mixed, since those of one class each vary less, and of one size, at most
        `batch_size`, since a small last one would count as much as the others.
        """
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        even = ceil(len(data) / ceil(len(data) / batch_size))
        batches = self.batches(data, even, seed=0)
        with self.autocast():
            update_bn(batches, model)

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
        """Mixed precision as in training; nothing where that is fp32."""
        enabled = self.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[nn.Module]:
        """`model` on the device, in eval mode, without gradients; afterwards in its own mode."""
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            with torch.inference_mode(), self.autocast():
                yield model
        finally:
            for module in training:
                module.training = True

    def predict(self, model: nn.Module, data: ImageSet) -> Tensor:
        """Logits (N, classes) fp32 of a set, on the device.

        Raises:
            DivergedError: they are not finite; a model that has diverged is no result.
        """
        batches = self.batches(data, self.eval_batch_size, shuffle=False)
        with self.evaluating(model):
            logits = torch.cat([model(images) for images, _ in whole(batches)]).float()
        if not logits.isfinite().all():
            raise DivergedError(
                "a model's answers are not finite, and nothing is kept; allowed: settings of its "
                "training or purification that converge, such as a lower lr"
            )
        return logits

    def accuracy(self, model: nn.Module, data: ImageSet) -> float:
        """Share of a set that `model` classifies as labelled."""
        return accuracy(self.predict(model, data), data.labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share in [0, 1] of logits (N, classes), N > 0, whose highest is at `labels` (N,)."""
    right = multiclass_accuracy(
        logits, labels.to(logits.device), num_classes=logits.shape[1], average="micro"
    )
    return round(right.item(), 6)  # single precision holds no more
