"""Training of the net: a LightningModule and a Trainer that leaves nothing behind. Imported by a fit of `mlp` alone."""

import itertools
import logging
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

_THREADS = 1  # sums depend on the number of threads, and the matrices are small


class Net(LightningModule):  # type: ignore[misc]  # lightning is not looked into by mypy, so its class is Any
    """Rectified layers; loss is the mean squared error over the known targets of a batch."""

    def __init__(self, n_inputs: int, n_steps: int, params: Any, n_batches: int) -> None:
        super().__init__()
        sizes = [n_inputs, *params.hidden_sizes, n_steps]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.params, self.n_batches = params, n_batches

    def linears(self) -> list[nn.Linear]:
        """The layers in order."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(n, K) to (n, H)."""
        for layer in self.layers[:-1]:
            inputs = torch.relu(layer(inputs))
        out: torch.Tensor = self.layers[-1](inputs)
        return out

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """Loss of a batch."""
        inputs, target = batch
        known = torch.isfinite(target)
        error = torch.where(known, self(inputs) - torch.nan_to_num(target), 0.0)
        return error.square().sum() / known.sum().clamp(min=1)

    def configure_optimizers(self) -> Any:
        """AdamW whose rate falls along a cosine to nothing, so that the last batch does not decide."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.params.learning_rate, weight_decay=self.params.weight_decay)
        n_updates = self.params.epochs * self.n_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 0.5 * (1 + math.cos(math.pi * min(1.0, done / n_updates))))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Batches:
    """Shuffled batches, anew at each pass. Plain tensors: a DataLoader's workers and collation cost more than the net."""

    def __init__(self, inputs: torch.Tensor, target: torch.Tensor, batch_rows: int, seed: int) -> None:
        self.inputs, self.target, self.batch_rows = inputs, target, batch_rows
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.inputs) / self.batch_rows)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in torch.randperm(len(self.inputs), generator=self.generator).split(self.batch_rows):  # type: ignore[no-untyped-call]  # torch left it untyped
            yield self.inputs[rows], self.target[rows]


def train_net(inputs: np.ndarray, target: np.ndarray, params: Any, seed: int) -> dict[str, np.ndarray]:
    """`weights_<layer>` (in, out) and `intercept_<layer>` of a net fitted to inputs (n, K) and target (n, H), NaN where unknown."""
    batches = Batches(torch.from_numpy(inputs), torch.from_numpy(target), params.batch_rows, seed)
    n_threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        _quiet()
        torch.manual_seed(seed)
        torch.set_num_threads(_THREADS)
        try:
            net = Net(inputs.shape[1], target.shape[1], params, len(batches))
            _trainer(params).fit(net, batches)
        finally:
            torch.set_num_threads(n_threads)
    numbers = {}
    for i, layer in enumerate(net.linears()):
        numbers[f"weights_{i}"] = layer.weight.detach().cpu().numpy().T.copy()
        numbers[f"intercept_{i}"] = layer.bias.detach().cpu().numpy().copy()
    return numbers


def _trainer(params: Any) -> Trainer:
    return Trainer(
        max_epochs=params.epochs, accelerator=params.accelerator, devices=1, deterministic=True, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip


def _quiet() -> None:
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec", category=FutureWarning)  # Lightning 2.6 on torch 2.13, in its own code
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # "GPU available: False" and the like, forty times a walk
