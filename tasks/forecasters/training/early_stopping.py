"""Stopping a training when the loss on the held-out rows no longer falls."""

import math
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from tasks.forecasters.training.learner import TrainingPairs, build_batch

_HELD_BLOCK_ROWS = 8192  # bounds the memory of the loss on the held-out rows


class EarlyStopping(Callback):  # type: ignore[misc]  # as above
    """Stops after `patience_epochs` epochs without a lower loss on the held-out rows.

    The net then has the weights of its best epoch.
    """

    def __init__(self, held: TrainingPairs, patience_epochs: int) -> None:
        self.held, self.patience_epochs = held, patience_epochs
        self.n_known = int(np.isfinite(held.target).sum())
        self.best_loss, self.n_worse, self.best = math.inf, 0, dict[str, torch.Tensor]()
        self.loss = math.nan  # of the last epoch, a mean

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the first epoch if the checkpoint is of the last one."""
        trainer.should_stop = self.n_worse >= self.patience_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop or go on; each process has all held-out rows, so all decide alike."""
        loss = self._compute_loss(pl_module)
        self.loss = loss / max(self.n_known, 1)
        if loss < self.best_loss:
            self.best_loss, self.n_worse = loss, 0
            self.best = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        else:
            self.n_worse += 1
        trainer.should_stop = self.n_worse >= self.patience_epochs

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the best epoch; without a finite loss the last weights, which parity refuses."""
        if self.best:
            pl_module.load_state_dict(self.best)

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint."""
        return {"best_loss": self.best_loss, "n_worse": self.n_worse, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.best_loss, self.n_worse, self.best = (
            state_dict["best_loss"],
            state_dict["n_worse"],
            state_dict["best"],
        )

    @torch.no_grad()
    def _compute_loss(self, learner: LightningModule) -> float:
        learner.eval()
        total = 0.0
        for start in range(0, len(self.held.target), _HELD_BLOCK_ROWS):
            part = [
                torch.from_numpy(a[start : start + _HELD_BLOCK_ROWS]).to(learner.device)
                for a in (*self.held.inputs, self.held.target)
            ]
            total += float(learner.compute_loss_sum(build_batch(part, torch.ones(()))))
        learner.train()
        return total
