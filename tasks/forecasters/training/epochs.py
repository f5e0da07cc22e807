"""Reporting the loss of each epoch while a net is trained."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from tasks.edges.event_log import EventSeries
from tasks.forecasters.training.early_stopping import EarlyStopping


class EpochReporter(Callback):  # type: ignore[misc]  # as above
    """Writes the mean loss of an epoch's batches, and of the held-out rows, into the event log.

    It reads the loss and changes nothing. In the list of callbacks it comes after *stopping*, whose
    loss is of the same epoch then.
    """

    def __init__(self, n_epochs: int, stopping: EarlyStopping | None) -> None:
        self.series, self.n_epochs, self.stopping = EventSeries("training.epoch"), n_epochs, stopping
        self.losses: list[Any] = []

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss of a batch; read at the end of the epoch, so that no GPU is waited for."""
        self.losses.append(outputs["loss"])

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch, in the first process of a shared fit alone."""
        losses, self.losses = self.losses, []
        if trainer.is_global_zero and losses:
            held = {} if self.stopping is None else {"held_loss": self.stopping.loss}
            mean = sum(float(loss) for loss in losses) / len(losses)
            self.series.append(epoch=trainer.current_epoch + 1, of=self.n_epochs, loss=mean, **held)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what waits."""
        self.series.flush()
