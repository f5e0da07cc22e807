"""The folder of a fit's checkpoints."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tasks.edges.files import hold_lock
from tasks.edges.settings import read_settings
from tasks.forecasters.parts.net_layers import TrainableNet, Weights
from tasks.forecasters.training.learner import TrainingPairs

# An interrupted fit that has not continued for a week is deleted
_KEEP_CHECKPOINTS_S = 7 * 86_400


@contextmanager
def open_checkpoints(
    net: TrainableNet,
    weights: Weights,
    pairs: TrainingPairs,
    held: TrainingPairs | None,
    epochs: int,
    precision: str,
) -> Iterator[Path | None]:
    """The folder of this fit's checkpoints, deleted at its end; None without checkpoints.

    Its name is a digest of everything that the fit depends on.
    """
    if net.params.checkpoint_every_epochs is None:
        yield None
        return
    folder = (
        read_settings().home / "checkpoints" / _compute_digest(net, weights, pairs, held, epochs, precision)
    )
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder and time.time() - other.stat().st_mtime > _KEEP_CHECKPOINTS_S:
            shutil.rmtree(other, ignore_errors=True)
    # A second process with the same fit waits, and then starts without a checkpoint
    with hold_lock(folder / "lock"):
        yield folder
        shutil.rmtree(folder)


def _compute_digest(
    net: TrainableNet,
    weights: Weights,
    pairs: TrainingPairs,
    held: TrainingPairs | None,
    epochs: int,
    precision: str,
) -> str:
    about = {
        "class": net.name,
        "schema": net.schema.hash,
        "seed": net.seed,
        "epochs": epochs,
        "params": net.params.model_dump(mode="json"),
        "precision": precision,
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for part in (pairs, *([held] if held is not None else [])):
        for array in (*part.inputs, part.target):
            digest.update(np.ascontiguousarray(array).tobytes())
    for name, array in sorted(weights.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
