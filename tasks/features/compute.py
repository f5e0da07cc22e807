"""The numbers of the columns, block by block over threads, in float64 and kept in float32.

Where nothing is missing, a window needs to know of no hole and of no neighbour: all series are
taken as one stretch, and whole windows come out right. The rows whose lookback has a hole in it or
reaches before their series are computed once more, each run of them as a stretch with its own past
before it. Both ways do the same operations in the same order on the same window, so a row's bits do
not depend on which way it went, nor on the blocks or the number of threads.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.features.rolling import Past
from tasks.features.sources import Column, FeatureSource, GriddedRows

# 512 KiB a column: a join stays in the second cache, and threads seldom meet at the interpreter's
# lock; 16,384 took .03 s more
_BLOCK_STEPS = 65_536
_MOSTLY_HOLES_FRAC = 0.5  # above it, the short way would be gone for little


class Block(NamedTuple):
    """A stretch to compute. steps: which rows it reads, -1 where nothing was; n: the last of
    them, behind the lookback's; keep: which of the n count, all without one; rows: where these
    go.
    """

    steps: slice | np.ndarray
    n: int
    keep: np.ndarray | None
    rows: slice | np.ndarray


class Runs(NamedTuple):
    """Stretches of rows, each inside one series. start, stop: of each."""

    start: np.ndarray
    stop: np.ndarray


def compute_columns(gridded: GriddedRows, columns: list[Column]) -> np.ndarray:
    """(F, N) float32, NaN where unknown or beyond float32."""
    sources = {
        source: source.read(gridded).astype(np.float64, copy=False)
        for source in dict.fromkeys(s for c in columns for s in c.sources)
    }
    n, lookback = gridded.frame.height, max(c.lookback_steps for c in columns)
    out = np.empty((len(columns), n), dtype=np.float32)
    looked_back_on = {s for c in columns if c.lookback_steps for s in c.sources}
    holes = _find_holes(gridded, [sources[s] for s in looked_back_on], lookback)
    if (holes.stop - holes.start).sum() > _MOSTLY_HOLES_FRAC * n:
        holes = Runs(gridded.starts, np.append(gridded.starts[1:], n))
    else:
        _compute_blocks(out, columns, sources, _iterate_flat_blocks(n, lookback))
    _compute_blocks(out, columns, sources, _iterate_stretches(gridded, holes, lookback))
    return out


def _find_holes(gridded: GriddedRows, values: list[np.ndarray], lookback: int) -> Runs:
    """Rows whose last *lookback* + 1 steps are not all there and all of their own series."""
    heads, n = gridded.starts, gridded.frame.height
    missing = np.flatnonzero(reduce(np.logical_or, map(np.isnan, values), np.zeros(n, dtype=bool)))
    owner = np.concatenate([np.arange(len(heads)), np.searchsorted(heads, missing, side="right") - 1])
    start = np.concatenate([heads, missing])
    stop = np.minimum(
        np.concatenate([heads + lookback, missing + lookback + 1]), np.append(heads[1:], n)[owner]
    )
    order = np.argsort(start, kind="stable")  # a head before the row itself, if that is missing
    start, stop = start[order], stop[order]
    new = np.ones(len(start), dtype=bool)
    new[1:] = (start[1:] > stop[:-1]) | (order[1:] < len(heads))
    first = np.flatnonzero(new)
    return Runs(start[first], stop[np.append(first[1:], len(start)) - 1])


def _iterate_flat_blocks(n: int, lookback: int) -> Iterator[Block]:
    """All rows but the first *lookback*, which lie in the first series' head."""
    size = max(_BLOCK_STEPS, 4 * lookback)
    for start in range(lookback, n, size):
        stop = min(start + size, n)
        yield Block(slice(start - lookback, stop), stop - start, None, slice(start, stop))


def _iterate_stretches(gridded: GriddedRows, wanted: Runs, lookback: int) -> Iterator[Block]:
    """The *wanted* rows, each run of them behind the *lookback* steps before it; what would lie
    before its series is missing.
    """
    length = wanted.stop - wanted.start + lookback
    head = gridded.starts[np.searchsorted(gridded.starts, wanted.start, side="right") - 1]
    row = np.arange(length.sum()) + np.repeat(wanted.start - lookback - np.cumsum(length) + length, length)
    counts = row >= np.repeat(wanted.start, length)
    row[row < np.repeat(head, length)] = -1
    size = max(min(_BLOCK_STEPS, len(row) // pl.thread_pool_size() + 1), 4 * lookback)
    for start in range(lookback, len(row), size):
        stop = min(start + size, len(row))
        keep = counts[start:stop]
        if keep.any():
            yield Block(row[start - lookback : stop], stop - start, keep, row[start:stop][keep])


def _compute_blocks(
    out: np.ndarray, columns: list[Column], sources: dict[FeatureSource, np.ndarray], blocks: Iterator[Block]
) -> None:
    found = list(blocks)
    if len(found) == 1:
        _compute_block(out, columns, sources, found[0])
        return
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        for _ in pool.map(lambda block: _compute_block(out, columns, sources, block), found):
            pass


def _compute_block(
    out: np.ndarray, columns: list[Column], sources: dict[FeatureSource, np.ndarray], block: Block
) -> None:
    pasts = {source: _build_past(values, block.steps) for source, values in sources.items()}
    # All sources are finite, so an infinity comes with one of these two flags, also where float32
    # ends
    infinite: list[str] = []
    with np.errstate(all="ignore", over="call", divide="call", call=lambda kind, _: infinite.append(kind)):
        for k, column in enumerate(columns):
            found = column.compute(*(pasts[source] for source in column.sources))[-block.n :]
            out[k, block.rows] = found if block.keep is None else found[block.keep]
    if infinite:
        part = out[:, block.rows]
        out[:, block.rows] = np.where(np.isinf(part), np.nan, part)


def _build_past(values: np.ndarray, steps: slice | np.ndarray) -> Past:
    """What stands in the table as it is promises to be whole (`compute` sees to the rest); what
    is put together does not.
    """
    return (
        Past(values[steps], whole=True)
        if isinstance(steps, slice)
        else Past(np.where(steps >= 0, values[steps], np.nan))
    )
