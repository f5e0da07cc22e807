"""A feature table as arrays for the leak gate: scores, groups of rows, the target at each lead."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About

MAX_ROWS = 20_000  # of one group, evenly over time; 20,000 find a correlation of .04
MIN_ROWS = 150  # of one group: some 40 columns of the past are fitted first
MAX_SERIES = 200  # that are tested one by one, evenly over the panel
N_PERIODS = 3  # that are tested one by one: a column may hold later values up to a date only
MAX_PART_FRAC = 0.97  # of the rows; a larger part counts as all of them
N_TRIMS, LINE_ROWS = 4, 2_000  # of a line through the closer half of so many rows
MAX_SCORE = 6.0  # standard deviations
ALL = "all"

Array = np.ndarray


class Lead(NamedTuple):
    """The target after the cutoff.

    kind: `value`, *steps* steps later, or `mean`, over the next *steps* steps.
    """

    kind: str
    steps: int


class LeadPanel(NamedTuple):
    """A table as arrays, series after series.

    y: (n,) scores of the target, missing values interpolated linearly.
    known: (n,) whether the target was known.
    x: (n, F) scores of the columns, 0 where unknown.
    x_known: (n, F) whether they were known.
    first, last: (n,) index of the first and last row of the row's series.
    sums: (n + 1,) of y before each row.
    season_steps: of the dataset.
    n_steps: of the longest lead, twice the horizon.
    """

    names: Sequence[str]
    y: Array
    known: Array
    x: Array
    x_known: Array
    first: Array
    last: Array
    sums: Array
    season_steps: int
    n_steps: int

    @classmethod
    def of(
        cls, table: pl.DataFrame, about: About, names: Sequence[str], *, ranks: bool = True
    ) -> "LeadPanel":
        """The arrays of *table* (FEATURES) with the columns *names*.

        ranks: scores of the ranks; else of the values, the target's in its unit.
        """
        scores = (
            _compute_rank_scores(table, ["z", *names])
            if ranks
            else _compute_standard_scores(table, ["y", *names])
        )
        lengths = table["series_id"].rle().struct.field("len").to_numpy().astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        y, known = scores[:, 0], np.isfinite(scores[:, 0])
        for start, n in zip(starts, lengths, strict=True):
            part, is_known = y[start : start + n], known[start : start + n]
            if is_known.any() and not is_known.all():
                missing, present = np.flatnonzero(~is_known), np.flatnonzero(is_known)
                part[missing] = np.interp(missing, present, part[present])
        y = np.nan_to_num(y)
        first, last = np.repeat(starts, lengths), np.repeat(starts + lengths - 1, lengths)
        sums = np.concatenate([[0.0], np.cumsum(y)])
        x = scores[:, 1:]
        return cls(
            names,
            y,
            known,
            np.nan_to_num(x),
            np.isfinite(x),
            first,
            last,
            sums,
            about.season_steps,
            2 * about.horizon_steps,
        )

    def select_column(self, f: int) -> "LeadPanel":
        """The panel with one column."""
        return self._replace(
            names=self.names[f : f + 1], x=self.x[:, f : f + 1], x_known=self.x_known[:, f : f + 1]
        )

    def get_lagged(self, values: Array, rows: Array, k: int) -> Array:
        """*values* k steps before *rows*; the series' first value where it has fewer steps."""
        return values[np.maximum(rows - k, self.first[rows])]

    def mean(self, end: Array, start: Array) -> Array:
        """Mean of y over the rows from *start* to *end*, both included."""
        mean: Array = (self.sums[end + 1] - self.sums[start]) / (end + 1 - start)
        return mean

    def get_target(self, lead: Lead, rows: Array) -> Array:
        """The target at *lead* after each of *rows*."""
        return self.y[rows + lead.steps] if lead.kind == "value" else self.mean(rows + lead.steps, rows + 1)


def _compute_rank_scores(table: pl.DataFrame, names: Sequence[str]) -> Array:
    """Normal scores of the ranks within each series, (n, len(names)); NaN where unknown.

    Equal values have the same score.
    """
    # only the gate needs it, and the service imports this package
    from scipy.special import ndtri

    value = [pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in names]
    parts = [
        ((v.rank("average") - 0.5) / v.count()).over("series_id").alias(str(i)) for i, v in enumerate(value)
    ]
    scores: Array = ndtri(table.select(parts).to_numpy())
    return scores


def _compute_standard_scores(table: pl.DataFrame, names: Sequence[str]) -> Array:
    """Standardized values within each series, (n, len(names)), clipped at MAX_SCORE.

    NaN where unknown or constant.
    """
    value = [pl.when(pl.col(name).is_finite()).then(pl.col(name)).cast(pl.Float64) for name in names]
    parts = [
        ((v - v.mean()) / v.std()).over("series_id").clip(-MAX_SCORE, MAX_SCORE).alias(str(i))
        for i, v in enumerate(value)
    ]
    return np.array(table.select(parts).to_numpy())  # a copy, since it is changed


def iterate_groups(panel: LeadPanel, table: pl.DataFrame) -> Iterator[tuple[str, Array, int]]:
    """(name, rows, longest lead) of all rows, of each of several series and of each period.

    Groups that are too small are left out.
    """
    index, longest = np.arange(len(panel.y)), int((panel.last - panel.first).max()) + 1
    time_us = table["event_time"].to_physical().to_numpy()
    borders = np.quantile(time_us, np.linspace(0, 1, N_PERIODS + 1)[1:-1])
    period = np.searchsorted(borders, time_us, side="right")
    starts = np.unique(panel.first)
    sampled = starts[
        np.unique(np.linspace(0, len(starts) - 1, min(len(starts), MAX_SERIES)).astype(np.int64))
    ]
    members: list[tuple[str, Array]] = [(ALL, index)]
    if len(starts) > 1:
        members += [
            (table["series_id"][int(start)], np.arange(start, panel.last[start] + 1)) for start in sampled
        ]
    members += [(f"period {p + 1} of {N_PERIODS}", np.flatnonzero(period == p)) for p in range(N_PERIODS)]
    n_steps = max(min(panel.n_steps, longest // 3), 1)
    for name, rows in members:
        usable = rows[
            panel.known[rows] & (rows - panel.first[rows] > 1) & (rows + n_steps <= panel.last[rows])
        ]
        if len(usable) >= MIN_ROWS:
            yield name, usable[:: -(-len(usable) // MAX_ROWS)], n_steps


def iterate_parts(panel: LeadPanel, rows: Array) -> Iterator[tuple[int, Array]]:
    """(column, rows) if a column is known in a part of *rows* only, or near a line in most of them.

    The line is on the target at the cutoff. If the target moves little from step to step, a copy of
    it in a part of the rows is hidden by the other rows. The choice uses no later value.
    """
    for f in range(len(panel.names)):
        known = rows[panel.x_known[rows, f]]
        if MIN_ROWS <= len(known) < MAX_PART_FRAC * len(rows):
            yield f, known
        if len(known) < MIN_ROWS:
            continue
        line = _fit_trimmed_line(panel, known[:: -(-len(known) // LINE_ROWS)], f)
        size = np.abs(panel.x[known, f] - line[0] - line[1] * panel.y[known])
        # a quarter of a normal distribution is within .3186 standard deviations
        spread = float(np.quantile(size, 0.25)) / 0.3186
        close = size < 3 * spread
        is_part = MIN_ROWS <= close.sum() < MAX_PART_FRAC * len(known)
        if is_part and spread < 0.5 * float(np.sqrt(np.mean(size**2))):
            yield f, known[close]


def _fit_trimmed_line(panel: LeadPanel, rows: Array, f: int) -> tuple[float, float]:
    """Intercept and slope of column *f* on the target at the cutoff, by the half nearest to it."""
    x, y = panel.x[rows, f], panel.y[rows]
    half = np.ones(len(rows), dtype=bool)
    for _ in range(N_TRIMS + 1):
        x_mean, y_mean = x[half].mean(), y[half].mean()
        distance = y[half] - y_mean
        square = float(distance @ distance)
        slope = float(distance @ (x[half] - x_mean)) / square if square > 0 else 0.0
        size = np.abs(x - x_mean - slope * (y - y_mean))
        half = size <= np.median(size)
    return float(x_mean - slope * y_mean), slope


def _list_spans(n_steps: int) -> list[int]:
    """Lengths of means: each up to 12, then each a sixth longer than the one before."""
    spans, length = list(range(2, min(n_steps, 12) + 1)), 14
    while length <= n_steps:
        spans.append(length)
        length = length * 7 // 6
    return spans


def list_leads(n_steps: int) -> list[Lead]:
    """Each step up to *n_steps*, and the means up to them."""
    return [
        *(Lead("value", s) for s in range(1, n_steps + 1)),
        *(Lead("mean", k) for k in _list_spans(n_steps)),
    ]


def build_past_basis(panel: LeadPanel, rows: Array) -> Array:
    """An orthonormal basis of the target's past of each row.

    It has lags, means, and the phase in the season and in seven seasons.
    """
    season, n_steps = panel.season_steps, panel.n_steps
    lags = {1, 2, 3, *((season - 1, season, season + 1, 2 * season, 7 * season) if season > 1 else ())}
    before = np.maximum(rows - 1, panel.first[rows])
    columns = [np.ones(len(rows)), *(panel.get_lagged(panel.y, rows, k) for k in sorted(lags) if k)]
    level, longer = panel.y[before], panel.mean(before, np.maximum(rows - 22, panel.first[rows]))
    # ranks are not linear: a dependence on the level must not look like a later turn
    columns += [level**2, level**3, longer**2, longer**3]
    columns += [panel.mean(before, np.maximum(rows - k, panel.first[rows])) for k in _list_spans(n_steps)] + [
        longer
    ]
    turns = 2 * np.pi * (rows - panel.first[rows])
    periods = [season / h for h in (1, 2, 3)] + [7 * season / h for h in (1, 2)] if season > 1 else []
    columns += [wave(turns / period) for period in periods for wave in (np.sin, np.cos)]
    basis, r = np.linalg.qr(np.column_stack(columns))
    size = np.abs(np.diag(r))
    kept: Array = basis[:, size > 1e-6 * np.sqrt(len(rows))]
    return kept
