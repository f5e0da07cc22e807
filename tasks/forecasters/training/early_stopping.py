"""Stopping a training when the held rows are no longer predicted better."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tasks.forecasters.training.learner import TrainingPairs, build_batch

_HELD_BLOCK_ROWS = 8192  # bounds the memory of looking at the held rows


class EarlyStopping(Callback):  # type: ignore[misc]  # as above
    """Stops when `patience_epochs` epochs brought nothing on the held rows; the net then has the
    weights of its best epoch.
    """

    def __init__(self, held: TrainingPairs, patience_epochs: int) -> None:
        self.held, self.patience_epochs = held, patience_epochs
        self.best_loss, self.n_worse, self.best = math.inf, 0, dict[str, torch.Tensor]()

    # Lightning's signature
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """A checkpoint of the last epoch needs no further one."""
        trainer.should_stop = self.n_worse >= self.patience_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every process looks at all held rows, so all decide alike."""
        loss = self._loss(pl_module)
        if loss < self.best_loss:
            self.best_loss, self.n_worse = loss, 0
            self.best = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        else:
            self.n_worse += 1
        trainer.should_stop = self.n_worse >= self.patience_epochs

    # Lightning's signature
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Back to the best epoch; a net whose loss was never a number keeps its last weights,
        and parity refuses them.
        """
        if self.best:
            pl_module.load_state_dict(self.best)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best_loss": self.best_loss, "n_worse": self.n_worse, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What a checkpoint kept."""
        self.best_loss, self.n_worse, self.best = (
            state_dict["best_loss"],
            state_dict["n_worse"],
            state_dict["best"],
        )

    @torch.no_grad()
    def _loss(self, learner: LightningModule) -> float:
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
