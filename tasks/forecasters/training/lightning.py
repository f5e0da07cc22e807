"""Training of a net in Lightning, by a Trainer that leaves no files.

Only a fit of a net imports this module. An epoch depends only on the weights, the state of the
optimizer and its number, which with the seed determines all its random draws. So a fit that
continues from a checkpoint ends with the same bytes as one without interruption.
"""

import logging
import math
import multiprocessing
import os
import tempfile
import threading
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from typing_extensions import override

from tasks.core.errors import ForecasterError
from tasks.edges.event_log import get_event_label
from tasks.forecasters.parts.net_layers import TrainableNet, Weights
from tasks.forecasters.training.checkpoints import open_checkpoints
from tasks.forecasters.training.early_stopping import EarlyStopping
from tasks.forecasters.training.epochs import EpochReporter
from tasks.forecasters.training.learner import Learner, ShuffledBatches, TrainingPairs

for _name in ("lightning.pytorch", "lightning.fabric"):
    # "GPU available: False" and the like, forty times in a backtest
    logging.getLogger(_name).setLevel(logging.ERROR)
_THREADS = 1  # sums depend on the number of threads, and the matrices are small


def fit_net(
    net: TrainableNet, weights: Weights, pairs: TrainingPairs, held: TrainingPairs | None, epochs: int
) -> Weights:
    """The weights of *net* after training from *weights* on *pairs*; *held* stops it.

    Raises ForecasterError for a precision that this machine does not support.
    """
    params = net.params
    precision = get_precision(net)
    learner = Learner(
        net,
        weights,
        epochs * math.ceil(math.ceil(len(pairs.target) / params.batch_rows) / params.accumulate_batches),
    )
    callbacks: list[Callback] = [WorkerSetup()]
    stopping = None
    if params.patience_epochs is not None and held is not None:
        stopping = EarlyStopping(held, params.patience_epochs)
        callbacks.append(stopping)
    if get_event_label() is not None:
        callbacks.append(EpochReporter(epochs, stopping))
    n_threads = torch.get_num_threads()
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        open_checkpoints(net, weights, pairs, held, epochs, precision) as folder,
    ):
        _filter_warnings()
        torch.set_num_threads(_THREADS)
        try:
            _fit(learner, ShuffledBatches(learner, pairs), callbacks, epochs, precision, folder)
        finally:
            torch.set_num_threads(n_threads)
    return {name: value.detach().cpu().numpy().copy() for name, value in learner.weights.items()}


def get_precision(net: TrainableNet) -> str:
    """The precision of the training on this machine.

    `auto` is the wider of the mixed ones that the GPU supports.
    Raises ForecasterError for `16-mixed` without one.
    """
    params, with_gpu = net.params, torch.cuda.is_available() and net.params.accelerator == "auto"
    if params.precision == "auto":
        return "32-true" if not with_gpu else "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    if params.precision == "16-mixed" and not with_gpu:
        raise ForecasterError(
            f"{net.name} is to be trained with `precision: 16-mixed`, which needs a GPU and `accelerator:"
            f" auto`; there is {'one, but `accelerator: cpu`' if torch.cuda.is_available() else 'no GPU'}."
            " Set `precision: auto`, or bf16-mixed, which a CPU supports."
        )
    return str(params.precision)


def _fit(
    learner: Learner,
    batches: ShuffledBatches,
    callbacks: list[Callback],
    epochs: int,
    precision: str,
    folder: Path | None,
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
    with tempfile.TemporaryDirectory() as scratch:  # where the processes of a shared fit write the weights
        trainer = Trainer(
            max_epochs=epochs,
            accelerator=params.accelerator,
            devices=params.devices,
            precision=precision,
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


class WorkerSetup(Callback):  # type: ignore[misc]  # as above
    """Sets up a process of a shared fit as the first process is, and ends it with that one."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """At the start of each process.

        Its parameters are in memory that all processes share, where each would add its update to
        those of the others, so they are copied.
        """
        if trainer.world_size > 1:
            threading.Thread(target=_stop_with_parent, daemon=True).start()
            torch.set_num_threads(_THREADS)
            _filter_warnings()
            for parameter in pl_module.parameters():
                parameter.data = parameter.data.clone()


def _stop_with_parent() -> None:
    """End this process when the process that started the fit has ended.

    Its parent by id is the fork server, which runs as long as its children.
    """
    if (first_process := multiprocessing.parent_process()) is not None:
        first_process.join()
        os._exit(1)


def _build_strategy() -> DDPStrategy:
    """Processes of a fork server that imports everything once (10 s) for all fits of a run.

    New processes with a GPU, since CUDA does not survive a fork.
    """
    if torch.cuda.is_available():
        return DDPStrategy(start_method="spawn")
    multiprocessing.set_forkserver_preload(["__main__", __name__])
    return DDPStrategy(start_method="forkserver")


def _filter_warnings() -> None:
    # Lightning 2.6 on torch 2.13, in its own code
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec", category=FutureWarning)
    # A fit continues from the checkpoint on purpose
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
