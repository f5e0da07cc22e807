"""The Lightning module around a net's own layers, and the batches that it is trained on."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.checkpoint import checkpoint

from tasks.forecasters.parts.net_layers import NetInputs, TrainableNet, TrainingHooks, Weights


class TrainingPairs(NamedTuple):
    """inputs of n rows, and target (n, H) in standard deviations, NaN where unknown."""

    inputs: NetInputs
    target: np.ndarray


class Batch(NamedTuple):
    """Tensors of some rows: one of n_shares shares of a batch, each of one process.

    n_known: number of known targets in the whole batch.
    """

    sequence: torch.Tensor
    statics: torch.Tensor
    target: torch.Tensor
    n_known: torch.Tensor
    n_shares: int


def build_batch(tensors: list[torch.Tensor], n_known: torch.Tensor, n_shares: int = 1) -> Batch:
    """A batch of the tensors sequence, statics and target."""
    sequence, statics, target = tensors
    return Batch(sequence, statics, target, n_known, n_shares)


# mypy does not read Lightning, so its class is Any
class Learner(LightningModule):  # type: ignore[misc]
    """The weights of *net* as torch parameters, and its loss: a mean over known targets."""

    def __init__(self, net: TrainableNet, weights: Weights, n_updates: int) -> None:
        super().__init__()
        self.net, self.n_updates = net, n_updates
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.from_numpy(np.array(array))) for name, array in weights.items()}
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """(n, H): the net's output for a batch."""
        hooks = DropoutHooks(self.net.params, self.training)
        out: torch.Tensor = self.net.forward(
            dict(self.weights.items()), NetInputs(batch.sequence, batch.statics), hooks
        )
        return out

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        """Loss of a batch.

        Gradients of all shares are averaged, so that they are equal to those of one process.
        """
        return self.compute_loss_sum(batch) * batch.n_shares / batch.n_known

    def compute_loss_sum(self, batch: Batch) -> torch.Tensor:
        """Sum of losses over the known targets.

        Source of the pinball loss: Koenker & Bassett 1978, doi:10.2307/1913643.
        """
        params = self.net.params
        error = torch.where(torch.isfinite(batch.target), torch.nan_to_num(batch.target) - self(batch), 0.0)
        if params.loss == "squared":
            return error.square().sum()
        return (
            error.abs().sum()
            if params.loss == "absolute"
            else torch.maximum(params.quantile * error, (params.quantile - 1) * error).sum()
        )

    def on_train_epoch_start(self) -> None:
        """Seed this epoch by its number, separately for each process, whatever came before."""
        torch.manual_seed(_build_seed(self.net.seed, self.current_epoch, 1 + self.global_rank))

    def configure_optimizers(self) -> Any:
        """AdamW; the rate rises over the first updates, then falls along a cosine to 0.

        So the last batch has little influence.
        """
        params = self.net.params
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay
        )
        rate = _build_rate_schedule(params, self.n_updates)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
                "interval": "step",
            },
        }


class DropoutHooks(TrainingHooks):
    """Dropout during training, and gradient checkpointing of layers."""

    def __init__(self, params: Any, is_training: bool) -> None:
        self.drop_frac = params.dropout_frac if is_training else 0.0
        self.is_checkpointing = params.gradient_checkpointing and is_training

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        """See TrainingHooks."""
        return torch.nn.functional.dropout(x, self.drop_frac) if self.drop_frac else x

    def run_layer(self, compute: Callable[..., Any], *values: Any) -> Any:
        """See TrainingHooks."""
        return (
            checkpoint(compute, *values, use_reentrant=False) if self.is_checkpointing else compute(*values)
        )


class ShuffledBatches:
    """Batches of *pairs* for *learner*, shuffled by its epoch.

    Plain tensors: a DataLoader's workers and collation cost more than the net.
    """

    def __init__(self, learner: Learner, pairs: TrainingPairs) -> None:
        self.learner, self.batch_rows = learner, learner.net.params.batch_rows
        self.tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in (*pairs.inputs, pairs.target)]

    def __len__(self) -> int:
        return math.ceil(len(self.tensors[0]) / self.batch_rows)

    def __iter__(self) -> Iterator[Batch]:
        """Each batch; where processes share it, the rows of this process."""
        share, n_shares = (
            (torch.distributed.get_rank(), torch.distributed.get_world_size())
            if torch.distributed.is_initialized()
            else (0, 1)
        )
        generator = torch.Generator().manual_seed(
            _build_seed(self.learner.net.seed, self.learner.current_epoch, 0)
        )
        # It has no types in torch
        for rows in torch.randperm(len(self.tensors[0]), generator=generator).split(self.batch_rows):  # type: ignore[no-untyped-call]
            n_known = torch.isfinite(self.tensors[2][rows]).sum().clamp(min=1)
            yield build_batch([t[rows[share::n_shares]] for t in self.tensors], n_known, n_shares)


def _build_rate_schedule(params: Any, n_updates: int) -> Callable[[int], float]:
    """Factor of the learning rate after *done* updates."""
    rising = round(params.warmup_frac * n_updates)

    def rate(done: int) -> float:
        if done < rising:
            return (done + 1) / rising
        left = min(1.0, (done - rising) / max(n_updates - rising, 1))
        return 0.5 * (1 + math.cos(math.pi * left)) if params.schedule == "cosine" else 1.0

    return rate


def _build_seed(*parts: int) -> int:
    """One seed of several numbers, so that no two draws are equal."""
    return int(np.random.SeedSequence([part % 2**32 for part in parts]).generate_state(1)[0])
