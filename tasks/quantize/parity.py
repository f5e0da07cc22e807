"""Parity: the graph that is served against the forecaster that was scored, on every gate row."""

from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.blocks import split_blocks
from tasks.core.errors import ReleaseError
from tasks.forecasters import load_forecaster
from tasks.quantize.rows import OutcomeRows

MAX_PARITY_SD = 1e-5
_BLOCK_ROWS = 8192  # bounds the memory of a graph over many series


def open_graph(path: Path) -> Any:
    """A session as the service opens it: one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def run_graph(session: Any, x: np.ndarray) -> np.ndarray:
    """z_hat (n, H) of a session over x (n, F)."""
    return np.concatenate(
        [session.run(["z_hat"], {"x": x[part]})[0] for part in split_blocks(len(x), _BLOCK_ROWS)]
    )


def check_parity(name: str, session: Any, fit: Path, rows: OutcomeRows) -> float:
    """Largest difference of graph and forecaster, in standard deviations of z.

    Raises ReleaseError that names the worst row when it is above MAX_PARITY_SD, or not finite.
    """
    expected, actual = (
        load_forecaster(fit).predict(rows.x).astype(np.float64),
        run_graph(session, rows.x).astype(np.float64),
    )
    difference_sd = np.abs(actual - expected) / rows.sd
    is_finite = np.isfinite(difference_sd)
    worst_index = int(np.argmax(np.where(is_finite, difference_sd, np.inf)))
    worst = np.unravel_index(worst_index, difference_sd.shape)
    if not difference_sd[worst] <= MAX_PARITY_SD:
        origin, series = rows.where[worst[0]]
        raise ReleaseError(
            f"The graph of {name!r} returns {actual[worst]:.9g} where the forecaster returns"
            f" {expected[worst]:.9g}: series {rows.panel.series_ids[series]!r}, cutoff"
            f" {rows.panel.cutoff[int(origin)]:%F %T}Z, step {worst[1] + 1}, {difference_sd[worst]:.1e}"
            f" standard deviations apart; at most {MAX_PARITY_SD:g} is allowed. Train {name!r} again"
            f" (`dvc repro -f train@{name}`); if the difference stays, its `formula` compares after a matrix"
            " product."
        )
    return float(difference_sd[worst])
