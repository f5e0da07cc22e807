"""What a form of a net costs and changes: error, coverage, batch dependence, time and memory."""

import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from tasks.core.compare import compute_block_size
from tasks.core.reports.quantize import Form, LossChange
from tasks.core.scores import pinball
from tasks.edges.parent_watch import stop_with_parent
from tasks.quantize.forms import Run, open_form
from tasks.quantize.rows import OutcomeRows, compute_losses, decode_forecasts

# Rows of a batch: rounds, and calls of each graph in a round. One row is a request to the service;
# the largest batch takes long and decides nothing
CALLS = {1: (7, 200), 64: (7, 20), 4096: (3, 1)}
_DRAWS = 1000
_SEED = 20260101
_LEVEL = 0.90
_BATCH_ROWS = 64


class Interval(NamedTuple):
    """The interval that is judged around a net.

    offsets: (H, Q) that are added to z_hat, in units of the scale; (H, 1) of 0 for a net that
      forecasts a quantile.
    """

    quantiles: tuple[float, ...]
    offsets: np.ndarray


def build_interval(run: Run, rows: OutcomeRows, quantile: float | None) -> Interval | None:
    """From FP32's errors on the calibration *rows*; None where forecasts have no quantiles."""
    dataset, steps = rows.panel.dataset, rows.y.shape[1]
    if quantile is not None:
        return Interval((quantile,), np.zeros((steps, 1)))
    if not dataset.about.quantiles:
        return None
    z_hat = rows.panel.add_centres(dataset.kind.link(run(rows.x)), rows.where[:, 1])
    scaled = (rows.z - z_hat) / dataset.schema.get_scales(rows.x)[:, None]
    known = [column[np.isfinite(column)] for column in scaled.T]
    every = scaled[np.isfinite(scaled)]
    offsets = [np.quantile(of_step if len(of_step) else every, dataset.about.quantiles) for of_step in known]
    return Interval(tuple(dataset.about.quantiles), np.array(offsets))


class JudgedForecasts(NamedTuple):
    """Loss, pinball loss and whether the interval holds the outcome, (n, H); NaN where unknown."""

    loss: np.ndarray
    pinball: np.ndarray | None
    is_inside: np.ndarray | None


class FormChanges(NamedTuple):
    """Shares by which both losses are larger, and the change of the coverage."""

    error: LossChange
    pinball: LossChange | None
    coverage: LossChange | None


def judge_forecasts(
    z_hat: np.ndarray, rows: OutcomeRows, interval: Interval | None, quantile: float | None
) -> JudgedForecasts:
    """z_hat: (n, H) of one form."""
    loss = compute_losses(z_hat, rows, quantile)
    if interval is None:
        return JudgedForecasts(loss, None, None)
    scale = rows.panel.schema.get_scales(rows.x)[:, None]
    ends = [decode_forecasts(z_hat + scale * offset, rows) for offset in interval.offsets.T]
    of_quantile = [pinball(rows.y, end, q) for end, q in zip(ends, interval.quantiles, strict=True)]
    is_above = rows.y >= ends[0] if len(ends) > 1 else True
    is_inside = np.where(np.isfinite(rows.y), is_above & (rows.y <= ends[-1]), np.nan)
    return JudgedForecasts(loss, np.mean(of_quantile, axis=0), is_inside)


def compare_judged(before: JudgedForecasts, after: JudgedForecasts, origin: np.ndarray) -> FormChanges:
    """Changes from *before* to *after*, of rows with these origins (n,)."""
    return FormChanges(
        compute_change(before.loss, after.loss, origin, is_relative=True),
        None
        if before.pinball is None or after.pinball is None
        else compute_change(before.pinball, after.pinball, origin, is_relative=True),
        None
        if before.is_inside is None or after.is_inside is None
        else compute_change(before.is_inside, after.is_inside, origin, is_relative=False),
    )


def compute_change(
    before: np.ndarray, after: np.ndarray, origin: np.ndarray, *, is_relative: bool
) -> LossChange:
    """Change of the mean from *before* to *after* (n, H) over what is known of the former.

    origin: (n,) of each row. is_relative: as a share of the former mean.
    The interval is a circular bootstrap of blocks of cutoffs. Source: Politis & Romano 1992.
    """
    known = np.isfinite(before)
    _, cutoff = np.unique(origin, return_inverse=True)
    sums = np.stack(
        [
            np.bincount(cutoff, np.where(known, values, 0.0).sum(axis=1))
            for values in (before, after, np.ones(known.shape))
        ]
    )
    n = sums.shape[1]
    block = compute_block_size(n, before.shape[1])
    wrapped = np.concatenate([np.zeros((3, 1)), np.cumsum(np.hstack([sums, sums[:, : block - 1]]), 1)], 1)
    of_block = wrapped[:, block:] - wrapped[:, :-block]
    drawn = np.random.default_rng(_SEED).integers(0, n, (_DRAWS, -(-n // block)))
    changes = [
        _compute_change_of_sums(part, is_relative=is_relative)
        for part in (sums.sum(axis=1), of_block[:, drawn].sum(axis=2))
    ]
    low, high = np.quantile(changes[1], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return LossChange(change=float(changes[0]), low=float(low), high=float(high))


def _compute_change_of_sums(sums: np.ndarray, *, is_relative: bool) -> np.ndarray:
    before, after, n = sums
    if not is_relative:
        return np.asarray((after - before) / np.maximum(n, 1))
    is_positive = before > 0
    return np.where(is_positive, after / np.where(is_positive, before, 1.0) - 1, np.sign(after))


def compute_batch_difference(run: Run, rows: OutcomeRows) -> float:
    """Largest distance of rows alone from the same rows in batches, in standard deviations of z.

    The batches are those rows, and all rows.
    """
    some = np.linspace(0, len(rows.x) - 1, min(_BATCH_ROWS, len(rows.x))).astype(np.int64)
    alone = np.concatenate([run(rows.x[i : i + 1]) for i in some])
    together = (run(rows.x[some]), run(rows.x)[some])
    return float(max(np.abs(batch - alone).max() for batch in together)) / rows.sd


def measure_latency(runs: Mapping[Form, Run], x: np.ndarray) -> dict[Form, dict[int, np.ndarray]]:
    """Seconds of a call of FP32 and of each form, (rounds, 2), by form and rows of a batch.

    Each is the median over the calls of a round. Calls of the two alternate, so that other work on
    the machine slows both, and a single stall does not count.
    """
    seconds: dict[Form, dict[int, np.ndarray]] = {form: {} for form in runs}
    for n_rows, (n_rounds, n_calls) in CALLS.items():
        batch = np.resize(x, (n_rows, x.shape[1]))
        for form, run in runs.items():
            pair = (runs["fp32"], run)
            for each in pair:
                each(batch)  # the first call allocates
            rounds = [
                np.median([[_measure_call(each, batch) for each in pair] for _ in range(n_calls)], axis=0)
                for _ in range(n_rounds)
            ]
            seconds[form][n_rows] = np.array(rounds)
    return seconds


def measure_memory(files: Mapping[Form, Path], x: np.ndarray) -> dict[Form, int]:
    """Bytes that a process needs more once it has loaded a form and forecast the largest batch.

    Each form has a process of its own, to a tenth of a megabyte; one that dies is left out.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["tasks.quantize.memory_server", __name__])
    batch = np.resize(x, (max(CALLS), x.shape[1]))
    found: dict[Form, int] = {}
    for form, file in files.items():
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_send_memory, args=(sender, file, batch))
        process.start()
        sender.close()
        with suppress(EOFError):
            found[form] = receiver.recv()
        process.join()
    return found


def _send_memory(sender: Connection, file: Path, batch: np.ndarray) -> None:
    stop_with_parent()
    for library in ("onnxruntime", "torch"):  # loaded by the server already
        import_module(library)
    process = psutil.Process()
    before = process.memory_full_info().uss
    run = open_form(file)
    run(batch)
    sender.send(max(round((process.memory_full_info().uss - before) / 1e5), 0) * 100_000)


def _measure_call(run: Run, batch: np.ndarray) -> float:
    started = time.perf_counter()
    run(batch)
    return time.perf_counter() - started
