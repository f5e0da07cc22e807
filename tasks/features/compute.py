"""Computing the columns, block by block over threads, in float64; the results are float32.

All series are computed as one stretch, which is right for every window without missing values that
stays within its series. The rows whose lookback has a gap or reaches before their series are
computed again, each run of them as a stretch with its own past. Both ways do the same operations in
the same order on the same window, so a row's bits do not depend on the way, nor on the blocks or
the number of threads.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.features.rolling import Past
from tasks.features.sources import Column, FeatureSource, GriddedRows

# 512 KiB per column: a join stays in the second-level cache, and threads rarely wait for the
# interpreter's lock; 16,384 steps took .03 s more
_BLOCK_STEPS = 65_536
_MAX_GAP_FRAC = 0.5  # of rows to compute again; above it, the first way is not worth it


# Each source as it was read and, where a column of a level or a spread needs it, from its centre
Sources = dict[tuple[FeatureSource, bool], np.ndarray]


class Block(NamedTuple):
    """A stretch to compute.

    steps: rows that it reads, -1 for none; the lookback's come first.
    n: the last of them, whose results are wanted.
    keep: which of the n count; None: all.
    rows: where these results go.
    """

    steps: slice | np.ndarray
    n: int
    keep: np.ndarray | None
    rows: slice | np.ndarray


class Runs(NamedTuple):
    """Stretches of rows, each within one series."""

    start: np.ndarray
    stop: np.ndarray


def compute_columns(gridded: GriddedRows, columns: list[Column]) -> np.ndarray:
    """The columns as (F, N) float32, NaN where unknown or beyond float32."""
    sources: Sources = {
        (source, False): source.read(gridded).astype(np.float64, copy=False)
        for source in dict.fromkeys(s for c in columns for s in c.sources)
    }
    if gridded.centre is not None:
        centred = dict.fromkeys(s for c in columns if c.role != "free" for s in c.sources)
        sources |= {(source, True): sources[source, False] - gridded.centre for source in centred}
    n, lookback = gridded.frame.height, max(c.lookback_steps for c in columns)
    out = np.empty((len(columns), n), dtype=np.float32)
    lookback_sources = {s for c in columns if c.lookback_steps for s in c.sources}
    incomplete = _find_incomplete(gridded, [sources[s, False] for s in lookback_sources], lookback)
    if (incomplete.stop - incomplete.start).sum() > _MAX_GAP_FRAC * n:
        incomplete = Runs(gridded.starts, np.append(gridded.starts[1:], n))
    else:
        _compute_blocks(out, columns, sources, _iterate_flat_blocks(n, lookback))
    _compute_blocks(out, columns, sources, _iterate_stretches(gridded, incomplete, lookback))
    return out


def _find_incomplete(gridded: GriddedRows, values: list[np.ndarray], lookback: int) -> Runs:
    """Rows whose last *lookback* + 1 steps are not all known and of their own series."""
    heads, n = gridded.starts, gridded.frame.height
    missing = np.flatnonzero(reduce(np.logical_or, map(np.isnan, values), np.zeros(n, dtype=bool)))
    owner = np.concatenate([np.arange(len(heads)), np.searchsorted(heads, missing, side="right") - 1])
    start = np.concatenate([heads, missing])
    stop = np.minimum(
        np.concatenate([heads + lookback, missing + lookback + 1]), np.append(heads[1:], n)[owner]
    )
    order = np.argsort(start, kind="stable")  # the start of a series first, if its row is missing too
    start, stop = start[order], stop[order]
    is_new = np.ones(len(start), dtype=bool)
    is_new[1:] = (start[1:] > stop[:-1]) | (order[1:] < len(heads))
    first = np.flatnonzero(is_new)
    return Runs(start[first], stop[np.append(first[1:], len(start)) - 1])


def _iterate_flat_blocks(n: int, lookback: int) -> Iterator[Block]:
    """All rows except the first *lookback*, which are incomplete."""
    size = max(_BLOCK_STEPS, 4 * lookback)
    for start in range(lookback, n, size):
        stop = min(start + size, n)
        yield Block(slice(start - lookback, stop), stop - start, None, slice(start, stop))


def _iterate_stretches(gridded: GriddedRows, wanted: Runs, lookback: int) -> Iterator[Block]:
    """The *wanted* rows, each run after its *lookback* steps (missing before its series)."""
    length = wanted.stop - wanted.start + lookback
    head = gridded.starts[np.searchsorted(gridded.starts, wanted.start, side="right") - 1]
    row = np.arange(length.sum()) + np.repeat(wanted.start - lookback - np.cumsum(length) + length, length)
    is_wanted = row >= np.repeat(wanted.start, length)
    row[row < np.repeat(head, length)] = -1
    size = max(min(_BLOCK_STEPS, len(row) // pl.thread_pool_size() + 1), 4 * lookback)
    for start in range(lookback, len(row), size):
        stop = min(start + size, len(row))
        keep = is_wanted[start:stop]
        if keep.any():
            yield Block(row[start - lookback : stop], stop - start, keep, row[start:stop][keep])


def _compute_blocks(
    out: np.ndarray, columns: list[Column], sources: Sources, blocks: Iterator[Block]
) -> None:
    listed = list(blocks)
    if len(listed) == 1:
        _compute_block(out, columns, sources, listed[0])
        return
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        for _ in pool.map(lambda block: _compute_block(out, columns, sources, block), listed):
            pass


def _compute_block(out: np.ndarray, columns: list[Column], sources: Sources, block: Block) -> None:
    pasts = {source: _build_past(values, block.steps) for source, values in sources.items()}
    # all sources are finite, so an infinity raises one of these two flags, also beyond float32
    infinite: list[str] = []
    with np.errstate(all="ignore", over="call", divide="call", call=lambda kind, _: infinite.append(kind)):
        for k, column in enumerate(columns):
            is_centred = column.role != "free"
            inputs = (pasts.get((s, is_centred)) or pasts[s, False] for s in column.sources)
            numbers = column.compute(*inputs)[-block.n :]
            out[k, block.rows] = numbers if block.keep is None else numbers[block.keep]
    if infinite:
        part = out[:, block.rows]
        out[:, block.rows] = np.where(np.isinf(part), np.nan, part)


def _build_past(values: np.ndarray, steps: slice | np.ndarray) -> Past:
    """The past of a stretch; a slice of the table is whole, incomplete rows are computed again."""
    return (
        Past(values[steps], whole=True)
        if isinstance(steps, slice)
        else Past(np.where(steps >= 0, values[steps], np.nan))
    )
