"""Training of a net in Lightning: a module around the net's own layers, and a Trainer that leaves
nothing behind.

Imported by a fit of a net alone. An epoch follows from the weights, the state of the optimizer and
its number alone: what is random in it is drawn anew from the seed and the number. So a fit that
goes on from a checkpoint ends with the bytes of one that was never disturbed.
"""

import hashlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.checkpoint import checkpoint

from tasks.core.errors import ForecasterError
from tasks.edges.files import hold_lock
from tasks.edges.settings import read_settings
from tasks.forecasters.parts.net_layers import NetInputs, TrainableNet, TrainingHooks, Weights

_THREADS = 1  # sums depend on the number of threads, and the matrices are small
# A killed fit that nobody has started again for a week is not wanted any more
_KEEP_CHECKPOINTS_S = 7 * 86_400
_HELD_BLOCK_ROWS = 8192  # bounds the memory of looking at the held rows
for _name in ("lightning.pytorch", "lightning.fabric"):
    # "GPU available: False" and the like, forty times a walk
    logging.getLogger(_name).setLevel(logging.ERROR)


class TrainingPairs(NamedTuple):
    """inputs of n rows, and target (n, H) in standard deviations, NaN where unknown."""

    inputs: NetInputs
    target: np.ndarray


class Batch(NamedTuple):
    """Tensors of some rows; n_known: targets known in the whole batch, of which these rows are
    one process's share, one of n_shares.
    """

    sequence: torch.Tensor
    statics: torch.Tensor
    target: torch.Tensor
    n_known: torch.Tensor
    n_shares: int


def build_batch(tensors: list[torch.Tensor], n_known: torch.Tensor, n_shares: int = 1) -> Batch:
    """Of sequence, statics and target."""
    sequence, statics, target = tensors
    return Batch(sequence, statics, target, n_known, n_shares)


# Lightning is not looked into by mypy, so its class is Any
class Learner(LightningModule):  # type: ignore[misc]
    """The weights of *net* as parameters; the loss is that of its parameters, a mean over the
    known targets of a batch.
    """

    def __init__(self, net: TrainableNet, weights: Weights, n_updates: int) -> None:
        super().__init__()
        self.net, self.n_updates = net, n_updates
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.from_numpy(np.array(array))) for name, array in weights.items()}
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """(n, H) of a batch, by the layers of the net."""
        aid = DropoutHooks(self.net.params, self.training)
        out: torch.Tensor = self.net.forward(
            dict(self.weights.items()), NetInputs(batch.sequence, batch.statics), aid
        )
        return out

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        """Loss of a batch.

        Gradients of all shares are averaged, so that they are together what one process would have
        found.
        """
        return self.compute_loss_sum(batch) * batch.n_shares / batch.n_known

    def compute_loss_sum(self, batch: Batch) -> torch.Tensor:
        """Sum over the known targets. Pinball loss: Koenker & Bassett 1978, doi:10.2307/1913643."""
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
        """Draw what is random in this epoch by its number, whatever came before; each process
        its own.
        """
        torch.manual_seed(_build_seed(self.net.seed, self.current_epoch, 1 + self.global_rank))

    def configure_optimizers(self) -> Any:
        """AdamW whose rate rises over the first updates, and then falls along a cosine to
        nothing, so that the last batch does not decide.
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
    """Drops while a net is trained; computes layers again instead of keeping what they made,
    where that is wanted.
    """

    def __init__(self, params: Any, is_training: bool) -> None:
        self.drop_frac, self.again = (
            (params.dropout_frac if is_training else 0.0),
            params.gradient_checkpointing and is_training,
        )

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        """See Aid."""
        return torch.nn.functional.dropout(x, self.drop_frac) if self.drop_frac else x

    def run_layer(self, compute: Callable[..., Any], *values: Any) -> Any:
        """See Aid."""
        return checkpoint(compute, *values, use_reentrant=False) if self.again else compute(*values)


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
        """All of each batch; where processes share it, this one's rows of it."""
        share, n_shares = (
            (torch.distributed.get_rank(), torch.distributed.get_world_size())
            if torch.distributed.is_initialized()
            else (0, 1)
        )
        generator = torch.Generator().manual_seed(
            _build_seed(self.learner.net.seed, self.learner.current_epoch, 0)
        )
        # Torch left it untyped
        for rows in torch.randperm(len(self.tensors[0]), generator=generator).split(self.batch_rows):  # type: ignore[no-untyped-call]
            n_known = torch.isfinite(self.tensors[2][rows]).sum().clamp(min=1)
            yield build_batch([t[rows[share::n_shares]] for t in self.tensors], n_known, n_shares)


class WorkerSetup(Callback):  # type: ignore[misc]  # as above
    """Makes a process that shares the work like the one that started it, and ends it with that
    one.
    """

    # Lightning's signature
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """At the start of each process.

        Its parameters arrive in memory that all processes share, where each would add its update to
        those of the others.
        """
        if trainer.world_size > 1:
            threading.Thread(target=_stop_with_parent, daemon=True).start()
            torch.set_num_threads(_THREADS)
            _filter_warnings()
            for parameter in pl_module.parameters():
                parameter.data = parameter.data.clone()


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


def fit_net(
    net: TrainableNet, weights: Weights, pairs: TrainingPairs, held: TrainingPairs | None, epochs: int
) -> Weights:
    """The weights of *net* after training from *weights* on *pairs*; *held* stops it.

    Raises ForecasterError for a precision that this machine has not.
    """
    params = net.params
    get_precision(net)
    learner = Learner(
        net,
        weights,
        epochs * math.ceil(math.ceil(len(pairs.target) / params.batch_rows) / params.accumulate_batches),
    )
    callbacks: list[Callback] = [WorkerSetup()]
    if params.patience_epochs is not None and held is not None:
        callbacks.append(EarlyStopping(held, params.patience_epochs))
    n_threads = torch.get_num_threads()
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        _open_checkpoints(net, weights, pairs, held, epochs) as folder,
    ):
        _filter_warnings()
        torch.set_num_threads(_THREADS)
        try:
            _fit(learner, ShuffledBatches(learner, pairs), callbacks, epochs, folder)
        finally:
            torch.set_num_threads(n_threads)
    return {name: value.detach().cpu().numpy().copy() for name, value in learner.weights.items()}


def get_precision(net: TrainableNet) -> str:
    """What the net is trained in on this machine; `auto` takes the wider of the two mixed ones that
    the GPU has.

    Raises ForecasterError for `16-mixed` without one.
    """
    params, with_gpu = net.params, torch.cuda.is_available() and net.params.accelerator == "auto"
    if params.precision == "auto":
        return "32-true" if not with_gpu else "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    if params.precision == "16-mixed" and not with_gpu:
        raise ForecasterError(
            f"{net.name} is to be trained with `precision: 16-mixed`, which needs a GPU and `accelerator:"
            f" auto`; here is {'one, but `accelerator: cpu`' if torch.cuda.is_available() else 'no GPU'}. Set"
            " `precision: auto`, or bf16-mixed, which a CPU has."
        )
    return str(params.precision)


def _fit(
    learner: Learner, batches: ShuffledBatches, callbacks: list[Callback], epochs: int, folder: Path | None
) -> None:
    params, last = learner.net.params, None
    if folder is not None:
        callbacks.append(
            ModelCheckpoint(
                folder,
                "last",
                every_n_epochs=params.checkpoint_every_epochs,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
        )
        last = folder / "last.ckpt"
    with tempfile.TemporaryDirectory() as scratch:  # where processes that share the work leave the weights
        trainer = Trainer(
            max_epochs=epochs,
            accelerator=params.accelerator,
            devices=params.devices,
            precision=get_precision(learner.net),
            strategy=_build_strategy() if params.strategy == "ddp" else "auto",
            accumulate_grad_batches=params.accumulate_batches,
            callbacks=callbacks,
            default_root_dir=scratch,
            deterministic=True,
            logger=False,
            enable_checkpointing=folder is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=1.0,
        )
        trainer.fit(
            learner,
            batches,
            ckpt_path=last if last is not None and last.exists() else None,
            weights_only=True,
        )


def _stop_with_parent() -> None:
    """End this process as soon as the one that started the fit has ended; its parent is the
    server, which lives as long as its children do.
    """
    if (starter := multiprocessing.parent_process()) is not None:
        starter.join()
        os._exit(1)


def _build_strategy() -> DDPStrategy:
    """Processes from a server that has imported all this once, 10 s of work for all fits of a
    run; with a GPU fresh ones, since CUDA does not survive a fork.
    """
    if torch.cuda.is_available():
        return DDPStrategy(start_method="spawn")
    multiprocessing.set_forkserver_preload(["__main__", __name__])
    return DDPStrategy(start_method="forkserver")


@contextmanager
def _open_checkpoints(
    net: TrainableNet,
    weights: Weights,
    pairs: TrainingPairs,
    held: TrainingPairs | None,
    epochs: int,
) -> Iterator[Path | None]:
    """The folder of this fit's checkpoints, named by all that it follows from; gone when the fit is
    done.

    None where none are wanted.
    """
    if net.params.checkpoint_every_epochs is None:
        yield None
        return
    folder = read_settings().home / "checkpoints" / _compute_digest(net, weights, pairs, held, epochs)
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder and time.time() - other.stat().st_mtime > _KEEP_CHECKPOINTS_S:
            shutil.rmtree(other, ignore_errors=True)
    # A second process with the same fit waits, and then finds nothing to go on from
    with hold_lock(folder / "lock"):
        yield folder
        shutil.rmtree(folder)


def _compute_digest(
    net: TrainableNet, weights: Weights, pairs: TrainingPairs, held: TrainingPairs | None, epochs: int
) -> str:
    about = {
        "class": net.name,
        "schema": net.schema.hash,
        "seed": net.seed,
        "epochs": epochs,
        "params": net.params.model_dump(mode="json"),
        "precision": get_precision(net),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for part in (pairs, *([held] if held is not None else [])):
        for array in (*part.inputs, part.target):
            digest.update(np.ascontiguousarray(array).tobytes())
    for name, array in sorted(weights.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def _build_rate_schedule(params: Any, n_updates: int) -> Callable[[int], float]:
    """Share of the learning rate after *done* updates."""
    rising = round(params.warmup_frac * n_updates)

    def rate(done: int) -> float:
        if done < rising:
            return (done + 1) / rising
        left = min(1.0, (done - rising) / max(n_updates - rising, 1))
        return 0.5 * (1 + math.cos(math.pi * left)) if params.schedule == "cosine" else 1.0

    return rate


def _build_seed(*parts: int) -> int:
    """One seed of several numbers, so that no two draws are alike."""
    return int(np.random.SeedSequence([part % 2**32 for part in parts]).generate_state(1)[0])


def _filter_warnings() -> None:
    # Lightning 2.6 on torch 2.13, in its own code
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec", category=FutureWarning)
    # To go on from what is there is the point
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
