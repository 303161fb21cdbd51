"""One progress bar for a whole training, with the time left."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from backdoor_lab.console import progress_bar


class FitProgress(Callback):
    """Counts steps without looking at what they computed, so nothing waits for the device."""

    def __init__(self, title: str, shown: bool) -> None:
        self.title = title
        self.bar = progress_bar(shown)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.start()
        steps, epochs = int(trainer.num_training_batches), int(trainer.max_epochs or 1)
        done = steps * trainer.current_epoch
        self.task = self.bar.add_task(self.title, total=steps * epochs, completed=done)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.bar.advance(self.task)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.bar.stop()
