"""Does a row know more than it could?

The features of sampled cutoffs once more, from truncated history, against the table. At a cutoff
only rows known by then exist, and of these the tail that the features say they look back on.
Whatever reads a later row, a later vintage, or further back than it declares, gives another number
there; which of these it was is found by giving it a little more to read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.leaks import LeakFinding
from tasks.features.as_known import build_features_as_known
from tasks.features.columns import build_declared_columns
from tasks.features.functions import build_function_column
from tasks.features.known_ahead import is_known_ahead
from tasks.features.params import FeatureParams
from tasks.features.specs import Function
from tasks.features.table import add_target, build_features

LATE_ROWS = 16  # late rows and corrections whose neighbourhood is looked at, besides the sample
# float32 and running sums differ by less; what differs by less than 1e-4 sd tells a model nothing
RELATIVE, OF_SPREAD = 1e-5, 1e-4


class RecomputedGroup(NamedTuple):
    """One group of columns computed from tails of one length: columns, what to compute, how far
    the tail reaches.
    """

    names: list[str]
    params: FeatureParams
    lookback_steps: int


class DifferingRow(NamedTuple):
    """One row of the table that cannot be what it is: where, the value *seen* and the one
    *allowed* (NaN: unknown).
    """

    feature: str
    series_id: str
    pos: int
    seen: float
    allowed: float


@dataclass(frozen=True)
class History:
    """All that came, and the grid of the table. rows: SERIES with all vintages; ahead: which of
    them are said ahead and may lie after a cutoff that knows them.
    """

    rows: pl.DataFrame
    ahead: pl.Series
    grid: pl.Series
    cutoffs: pl.Series

    @classmethod
    def of(cls, rows: pl.DataFrame, about: About, table: pl.DataFrame, calendar: Calendar) -> "History":
        """The history behind *table*."""
        first, last = table.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
        grid = calendar.grid(first, last)
        ahead = add_target(rows, about).select(is_known_ahead(calendar)).to_series()
        return cls(
            rows,
            ahead & bool(about.covariates.known_ahead),
            grid,
            pl.DataFrame({"event_time": grid}).select(calendar.nominal_known_at()).to_series(),
        )

    def select_until(self, pos: int) -> pl.DataFrame:
        """Every vintage of the steps up to *pos*, and what was said ahead."""
        return self.rows.filter((pl.col("event_time") <= self.grid[pos]) | self.ahead)

    def known(self, pos: int, lookback_steps: int | None = None) -> pl.DataFrame:
        """What was known at the cutoff of the origin at *pos*, back to *lookback_steps* before
        it (None: all).
        """
        since = self.grid[0 if lookback_steps is None else max(0, pos - lookback_steps)]
        inside = (pl.col("event_time") <= self.grid[pos]) | self.ahead
        return self.rows.filter(
            (pl.col("known_at") <= self.cutoffs[pos]) & (pl.col("event_time") >= since) & inside
        )


def find_look_ahead(
    rows: pl.DataFrame, about: About, params: FeatureParams, table: pl.DataFrame, calendar: Calendar
) -> tuple[list[LeakFinding], int, int]:
    """Findings, number of cutoffs, number of values compared. rows: SERIES with all vintages;
    table: what `build_features_as_known` made of them.
    """
    if table.is_empty():
        return [], 0, 0
    history = History.of(rows, about, table, calendar)
    grid, cutoffs = history.grid, history.cutoffs
    positions = select_origin_positions(rows, grid, cutoffs, params.leaks.n_cutoffs, calendar)
    spread = dict(
        zip(names := table.columns[6:], table.select(pl.col(names).std().fill_null(0.0)).row(0), strict=True)
    )
    at = table.filter(pl.col("event_time").is_in(grid.gather(positions).implode())).partition_by(
        "event_time", as_dict=True
    )
    found: dict[str, list[DifferingRow]] = {}
    n_compared = 0
    for pos in positions:
        here = at.get((grid[pos],))
        if here is None:
            continue
        for look in _iterate_groups(about, params):
            allowed = _compute_at_origin(
                history.known(pos, look.lookback_steps), look.params, about, calendar, grid[pos]
            )
            n, differing = _compare_values(here, allowed, look.names, spread, pos)
            n_compared += n
            for row in differing:
                found.setdefault(row.feature, []).append(row)
    # Asked for where something differs, then once
    again = cache(lambda: build_features_as_known(rows, about, params, calendar))
    return (
        [
            _build_finding(found[name], history, about, params, spread[name], calendar, again)
            for name in sorted(found)
        ],
        len(positions),
        n_compared,
    )


def select_origin_positions(
    rows: pl.DataFrame, grid: pl.Series, cutoffs: pl.Series, n_cutoffs: int, calendar: Calendar
) -> list[int]:
    """Positions of origins, ascending: one from each of *n_cutoffs* equal parts, the newest, and
    those between a late row's step and its being known.
    """
    n = len(grid)
    edges = np.linspace(0, n, min(n, n_cutoffs) + 1)
    # Not evenly apart, or one phase of a season would be all
    drawn = edges[:-1] + np.random.default_rng(0).random(len(edges) - 1) * np.diff(edges)
    late = rows.filter(pl.col("known_at") > calendar.nominal_known_at()).sort(
        "known_at", "series_id", "event_time"
    )
    picked = (
        late[np.unique(np.linspace(0, late.height - 1, min(late.height, LATE_ROWS)).astype(np.int64))]
        if late.height
        else late
    )
    own = grid.search_sorted(picked["event_time"]).to_list()
    last = (cutoffs.search_sorted(picked["known_at"], side="left") - 1).to_list() if late.height else []
    return sorted(
        {
            n - 1,
            *drawn.astype(np.int64).tolist(),
            *(p for p in own if p < n),
            *(int(p) for p in last if 0 <= p < n),
        }
    )


def find_unclosed_bars(rows: pl.DataFrame, about: About, calendar: Calendar) -> list[LeakFinding]:
    """Bars whose counting vintage was known before the bar can have ended: it was still open, or
    its `known_at` is the time of its opening.
    """
    if about.target.derive is None:
        return []
    end = (
        pl.col("event_time").dt.offset_by(about.every)
        if calendar.kind == "continuous"
        else pl.col("event_time") + pl.duration(microseconds=1)
    )
    bars = add_target(rows, about).filter(
        pl.col("y").is_not_null() & (pl.col("known_at") <= calendar.nominal_known_at())
    )
    counting = bars.sort("series_id", "event_time", "known_at")
    early = counting.unique(["series_id", "event_time"], keep="last", maintain_order=True).filter(
        pl.col("known_at") < end
    )
    if early.is_empty():
        return []
    row = early.row(0, named=True)
    return [
        LeakFinding(
            rule="known_at",
            feature=about.target.column,
            series_id=row["series_id"],
            cutoff=row["known_at"].isoformat(),
            n_rows=early.height,
            says=f"The bar of {row['event_time']:%F %T}Z of series {row['series_id']!r} says that it was "
            f"known at {row['known_at']:%F %T}Z, before it was closed, and no later vintage "
            f"takes its place ({early.height} such bars). A bar is known when it is over: correct "
            f"`ingest.source.known_at_column`, or leave the open bar out.",
        )
    ]


def _iterate_groups(about: About, params: FeatureParams) -> Iterator[RecomputedGroup]:
    """All features of ours on the longest lookback, which is what the service keeps; each
    function on its own, since it must not need another's.
    """
    functions = [spec for spec in params.list if isinstance(spec, Function)]
    ours = params.model_copy(
        update={"list": tuple(spec for spec in params.list if not isinstance(spec, Function))}
    )
    columns = build_declared_columns(about, ours)
    yield RecomputedGroup([c.name for c in columns], ours, max(c.lookback_steps for c in columns))
    for spec in functions:
        yield RecomputedGroup(
            [build_function_column(spec).name],
            params.model_copy(update={"list": (spec,), "scale": None}),
            spec.lookback_steps,
        )


def _compute_at_origin(
    known: pl.DataFrame, params: FeatureParams, about: About, calendar: Calendar, until: datetime
) -> pl.DataFrame:
    """The features at the origin *until* of every series that has a row among *known*."""
    return build_features(known, about, params, calendar, until).filter(pl.col("event_time") == until)


def _compare_values(
    here: pl.DataFrame, allowed: pl.DataFrame, names: list[str], spread: dict[str, float], pos: int
) -> tuple[int, list[DifferingRow]]:
    """How many values were compared, and those that differ by more than rounding.

    A series of which nothing was known in the tail is left out.
    """
    both = here.select("series_id", *names).join(
        allowed.select("series_id", *names),
        on="series_id",
        how="inner",
        suffix=" allowed",
        maintain_order="left",
    )
    seen, right = (
        both.select(pl.col(columns).cast(pl.Float64).fill_null(float("nan"))).to_numpy()
        for columns in (names, [f"{name} allowed" for name in names])
    )
    differs = ~_is_alike(seen, right, np.array([spread[name] for name in names]))
    return both.height * len(names), [
        DifferingRow(names[f], both["series_id"][int(i)], pos, float(seen[i, f]), float(right[i, f]))
        for f, i in np.argwhere(differs.T)
    ]


def _is_alike(seen: np.ndarray, right: np.ndarray, spread: float | np.ndarray) -> np.ndarray:
    near: np.ndarray = np.abs(seen - right) <= RELATIVE * np.abs(right) + OF_SPREAD * spread
    return near | (np.isnan(seen) & np.isnan(right))


def _build_finding(
    found: list[DifferingRow],
    history: History,
    about: About,
    params: FeatureParams,
    spread: float,
    calendar: Calendar,
    again: Callable[[], pl.DataFrame],
) -> LeakFinding:
    """The first of one feature's rows, and by which rule it is wrong: the least that must be
    given to get what the table has.
    """
    row = found[0]
    until = history.grid[row.pos]

    def seen_in(table: pl.DataFrame) -> bool:
        value = table.filter((pl.col("event_time") == until) & (pl.col("series_id") == row.series_id))[
            row.feature
        ].cast(pl.Float64)
        return bool(_is_alike(np.array([row.seen]), value.fill_null(float("nan")).to_numpy(), spread).any())

    if seen_in(_compute_at_origin(history.known(row.pos), params, about, calendar, until)):
        rule = "lookback"
    elif seen_in(_compute_at_origin(history.select_until(row.pos), params, about, calendar, until)):
        rule = "known_at"
    else:
        rule = "look_ahead" if _has_all_values(again(), found, history, spread) else "not_repeatable"
    cutoff = history.cutoffs[row.pos]
    seen, allowed = (f"{v:.6g}" if np.isfinite(v) else "unknown" for v in (row.seen, row.allowed))
    return LeakFinding(
        rule=rule,
        feature=row.feature,
        series_id=row.series_id,
        cutoff=cutoff.isoformat(),
        n_rows=len(found),
        seen=_format_number(row.seen),
        allowed=_format_number(row.allowed),
        says=f"{row.feature!r} of series {row.series_id!r} at the cutoff {cutoff:%F %T}Z is {seen} in the "
        f"table, and {allowed} {_WHY[rule]} ({len(found)} of the rows looked at).",
    )


def _has_all_values(table: pl.DataFrame, found: list[DifferingRow], history: History, spread: float) -> bool:
    """Whether *table* has what was seen in every one of the rows: a single one may agree by
    chance.
    """
    rows = pl.DataFrame(
        {
            "series_id": [r.series_id for r in found],
            "event_time": history.grid.gather([r.pos for r in found]),
            "seen": [r.seen for r in found],
        }
    )
    both = rows.join(
        table.select(
            "series_id", "event_time", again=pl.col(found[0].feature).cast(pl.Float64).fill_null(float("nan"))
        ),
        on=["series_id", "event_time"],
        how="left",
    )
    return bool(
        _is_alike(both["seen"].to_numpy(), both["again"].fill_null(float("nan")).to_numpy(), spread).all()
    )


def _format_number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


_WHY = {
    "look_ahead": (
        "from what lies before that cutoff: it reads later steps. Compute it from the step and those before"
        " it, or take it out of `features.list`"
    ),
    "known_at": (
        "from what was known by then: it uses values that came, or were corrected, later. Run `dvc repro"
        " features`; if it stays, take it out of `features.list`"
    ),
    "lookback": (
        "from the steps that it declares, so the service would give other numbers than the batch. Raise its"
        " `lookback_steps`, or cut its window there"
    ),
    "not_repeatable": (
        "when it is computed again, on all rows too: the table is of other code or data, or the function is"
        " not the same twice. Run `dvc repro features`, and let a function depend on nothing but what it gets"
    ),
}
