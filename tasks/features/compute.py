"""The numbers of the columns, block by block over threads, in float64 and kept in float32.

Where nothing is missing, a window needs to know of no hole and of no neighbour: all series are taken as one stretch, and whole windows come out
right. The rows whose lookback has a hole in it or reaches before their series are computed once more, each run of them as a stretch with its own
past before it. Both ways do the same operations in the same order on the same window, so a row's bits do not depend on which way it went, nor on
the blocks or the number of threads.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.features.rolling import Past
from tasks.features.sources import Column, Laid, Source

_BLOCK_STEPS = 16_384  # 128 KiB a column: the windows of one block stay in the processor's second cache
_MOSTLY_HOLES_FRAC = 0.5  # above it, the short way would be gone for little


class Block(NamedTuple):
    """A stretch to compute. steps: which rows it reads, -1 where nothing was. n_before: how many of them come before the first that counts; keep: which count after that, all without one. rows: where these go."""

    steps: slice | np.ndarray
    n_before: int
    keep: np.ndarray | None
    rows: slice | np.ndarray


def compute(laid: Laid, columns: list[Column]) -> np.ndarray:
    """(F, N) float32, NaN where unknown or beyond float32."""
    sources = {source: source.read(laid).astype(np.float64, copy=False) for source in dict.fromkeys(s for c in columns for s in c.sources)}
    out = np.empty((len(columns), laid.frame.height), dtype=np.float32)
    lookback = max(c.lookback_steps for c in columns)
    looked_back_on = {s for c in columns if c.lookback_steps for s in c.sources}
    holes = _holes(laid, [sources[s] for s in looked_back_on], lookback)
    if holes.mean() > _MOSTLY_HOLES_FRAC:
        holes = np.ones(len(holes), dtype=bool)
    else:
        _fill(out, columns, sources, _flat(len(holes), lookback))
    _fill(out, columns, sources, _stretches(laid, holes, lookback))
    return out


def _holes(laid: Laid, values: list[np.ndarray], lookback: int) -> np.ndarray:
    """Rows whose last *lookback* + 1 steps are not all there and all of their own series."""
    place = np.arange(laid.frame.height)
    newest = laid.first - 1  # the step before the series is the first that is missing
    missing = np.zeros(len(place), dtype=bool)
    for source in values:
        missing |= np.isnan(source)
    if missing.any():
        newest = np.maximum(newest, np.maximum.accumulate(np.where(missing, place, -1)))
    return newest >= place - lookback


def _flat(n: int, lookback: int) -> Iterator[Block]:
    size = max(_BLOCK_STEPS, 4 * lookback)
    for start in range(0, n, size):
        stop, before = min(start + size, n), min(start, lookback)
        yield Block(slice(start - before, stop), before, None, slice(start, stop))


def _stretches(laid: Laid, wanted: np.ndarray, lookback: int) -> Iterator[Block]:
    """The *wanted* rows, each run of them behind the *lookback* steps before it; what would lie before its series is missing."""
    if not wanted.any():
        return
    rows = np.flatnonzero(wanted)
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (rows[1:] != rows[:-1] + 1) | (laid.first[rows[1:]] != laid.first[rows[:-1]])
    run = np.cumsum(new) - 1
    at = np.arange(len(rows)) + (run + 1) * lookback  # where each wanted row stands, with the steps before each run let in
    n = len(rows) + (int(run[-1]) + 1) * lookback
    heads = np.flatnonzero(new)
    row = np.full(n, -1)
    before = (at[heads] - lookback)[:, None] + np.arange(lookback)
    steps = rows[heads][:, None] - lookback + np.arange(lookback)
    row[before] = np.where(steps >= laid.first[rows[heads]][:, None], steps, -1)
    row[at] = rows
    counts = np.zeros(n, dtype=bool)
    counts[at] = True
    size = max(_BLOCK_STEPS, 4 * lookback)
    for start in range(0, n, size):
        stop, n_before = min(start + size, n), min(start, lookback)
        part, keep = row[start - n_before : stop], counts[start:stop]
        if keep.any():
            yield Block(part, n_before, keep, row[start:stop][keep])


def _fill(out: np.ndarray, columns: list[Column], sources: dict[Source, np.ndarray], blocks: Iterator[Block]) -> None:
    found = list(blocks)
    if len(found) == 1:
        _fill_block(out, columns, sources, found[0])
        return
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        for _ in pool.map(lambda block: _fill_block(out, columns, sources, block), found):
            pass


def _fill_block(out: np.ndarray, columns: list[Column], sources: dict[Source, np.ndarray], block: Block) -> None:
    pasts = {source: _past(values, block.steps) for source, values in sources.items()}
    infinite: list[str] = []  # all sources are finite, so an infinity comes with one of these two flags, also where float32 ends
    with np.errstate(all="ignore", over="call", divide="call", call=lambda kind, _: infinite.append(kind)):
        for k, column in enumerate(columns):
            found = column.compute(*(pasts[source] for source in column.sources))[block.n_before :]
            out[k, block.rows] = found if block.keep is None else found[block.keep]
    if infinite:
        part = out[:, block.rows]
        out[:, block.rows] = np.where(np.isinf(part), np.nan, part)


def _past(values: np.ndarray, steps: slice | np.ndarray) -> Past:
    """What stands in the table as it is promises to be whole (`compute` sees to the rest); what is put together does not."""
    return Past(values[steps], whole=True) if isinstance(steps, slice) else Past(np.where(steps >= 0, values[steps], np.nan))
