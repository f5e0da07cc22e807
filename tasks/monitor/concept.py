"""Whether the inputs explain the loss as they did: concept drift.

The log of the loss of a block is predicted from the inputs that its forecasts knew, by a regression
on the blocks of the reference. What is left over is watched: inputs that make forecasting harder
raise the loss, a relation that has changed raises what is left over.
"""

import numpy as np
import polars as pl

N_COMPONENTS = 3  # of the inputs; a reference has few blocks
_LEAST_LOSS = 1e-12
_SPIKE_RANGES = 3.0  # this many 80 % ranges beyond that range is a spike
_SPREAD_SD = 5.0  # an input further out counts as that far


def select_inputs(streams: pl.DataFrame, times: pl.Series, lag_steps: int) -> pl.DataFrame:
    """The streams of numbers *lag_steps* before *times* on the grid, which are the event_time.

    Values that are positive throughout are in logs.
    """
    numbers = [name for name in streams.columns[1:] if streams.schema[name] == pl.Float64]
    values = streams.select(numbers).to_numpy().astype(float, copy=False).reshape(streams.height, -1)
    is_log = np.fmin.reduce(values, axis=0, initial=np.inf) > 0
    rows = streams["event_time"].search_sorted(times).to_numpy().astype(int) - lag_steps
    out = np.full((len(times), len(numbers)), np.nan)
    out[rows >= 0] = values[rows[rows >= 0]]
    out[:, is_log] = np.log(out[:, is_log])
    return pl.DataFrame(out, schema=dict.fromkeys(numbers, pl.Float64)).insert_column(0, times)


def clip_spikes(values: np.ndarray) -> np.ndarray:
    """*values* (B, N) of a reference without single blocks that would hide all others."""
    if not values.size:
        return values
    low, high = np.nanquantile(values, [0.1, 0.9], axis=0)
    reach = np.where(high > low, _SPIKE_RANGES * (high - low), np.inf)
    out: np.ndarray = np.clip(values, low - reach, high + reach)
    return out


def compute_ratios(loss: np.ndarray, inputs: np.ndarray, n_reference: int) -> np.ndarray:
    """(B,) loss of each block over what the inputs explain.

    loss: (B,) means of blocks. inputs: (B, N) means of the same blocks, NaN where missing.
    n_reference: first blocks, of which each is predicted from the others.
    """
    logs = np.log(np.maximum(loss, _LEAST_LOSS))
    past, design = clip_spikes(logs[:n_reference, None])[:, 0], _build_design(inputs, n_reference)
    inverse = np.linalg.pinv(design[:n_reference])
    left = logs - design @ (inverse @ past)
    leverage = np.einsum("bk,kb->b", design[:n_reference], inverse)
    left[:n_reference] /= np.maximum(1 - leverage, 0.1)
    out: np.ndarray = np.exp(left)
    return out


def _build_design(inputs: np.ndarray, n_reference: int) -> np.ndarray:
    """A constant and the main components of the inputs, by the reference alone."""
    inputs = np.where(np.isfinite(inputs), inputs, np.nan)
    is_used = 2 * np.isfinite(inputs[:n_reference]).sum(axis=0) > n_reference
    past = clip_spikes(inputs[:n_reference, is_used])
    mean, sd = np.nanmean(past, axis=0), np.nanstd(past, axis=0)
    varies = sd > 1e-9 * (1 + np.abs(mean))
    z = (inputs[:, is_used] - mean)[:, varies] / sd[varies]
    z = np.clip(np.nan_to_num(z), -_SPREAD_SD, _SPREAD_SD)
    basis = np.linalg.svd(z[:n_reference], full_matrices=False)[2][:N_COMPONENTS]
    return np.column_stack([np.ones(len(z)), z @ basis.T])
