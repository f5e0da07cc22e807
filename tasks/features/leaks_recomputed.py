"""Recomputing features from truncated history, to find those that use more than they may.

The features of sampled cutoffs are computed again and compared with the table. At a cutoff only the
rows known by then are given, and of these the tail that the features declare as their lookback. A
feature that reads a later row, a later vintage, or further back, gives another number; which of
these it was is found by giving it more rows.
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

LATE_ROWS = 16  # late rows and corrections whose origins are compared, in addition to the sample
# float32 and running sums differ by less; a difference below 1e-4 sd is no information for a model
RELATIVE, OF_SPREAD = 1e-5, 1e-4


class RecomputedGroup(NamedTuple):
    """A group of columns that is computed from tails of *lookback_steps* steps."""

    names: list[str]
    params: FeatureParams
    lookback_steps: int


class DifferingRow(NamedTuple):
    """A value of the table that differs from the recomputed one.

    pos: of the origin on the grid.
    seen: in the table; allowed: recomputed. NaN: unknown.
    """

    feature: str
    series_id: str
    pos: int
    seen: float
    allowed: float


@dataclass(frozen=True)
class History:
    """All rows received, and the grid of the table.

    rows: SERIES with all vintages.
    ahead: which of them are known ahead, and may be after a cutoff that knows them.
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

    def select_steps(self, pos: int) -> pl.DataFrame:
        """Every vintage of the steps up to *pos*, and the rows known ahead."""
        return self.rows.filter((pl.col("event_time") <= self.grid[pos]) | self.ahead)

    def select_known(self, pos: int, lookback_steps: int | None = None) -> pl.DataFrame:
        """The rows known at the cutoff of the origin at *pos*.

        lookback_steps: how far back; None: all.
        """
        since = self.grid[0 if lookback_steps is None else max(0, pos - lookback_steps)]
        is_before = (pl.col("event_time") <= self.grid[pos]) | self.ahead
        return self.rows.filter(
            (pl.col("known_at") <= self.cutoffs[pos]) & (pl.col("event_time") >= since) & is_before
        )


def find_look_ahead(
    rows: pl.DataFrame, about: About, params: FeatureParams, table: pl.DataFrame, calendar: Calendar
) -> tuple[list[LeakFinding], int, int]:
    """Findings, number of cutoffs, number of compared values.

    rows: SERIES with all vintages.
    table: the result of `build_features_as_known` on them.
    """
    if table.is_empty():
        return [], 0, 0
    history = History.of(rows, about, table, calendar)
    grid, cutoffs = history.grid, history.cutoffs
    positions = select_origin_positions(rows, grid, cutoffs, params.leaks.n_cutoffs, calendar)
    spread = dict(
        zip(names := table.columns[6:], table.select(pl.col(names).std().fill_null(0.0)).row(0), strict=True)
    )
    row_of_time = table.filter(pl.col("event_time").is_in(grid.gather(positions).implode())).partition_by(
        "event_time", as_dict=True
    )
    differing_rows: dict[str, list[DifferingRow]] = {}
    n_compared = 0
    for pos in positions:
        row = row_of_time.get((grid[pos],))
        if row is None:
            continue
        for group in _iterate_groups(about, params):
            allowed = _compute_at_origin(
                history.select_known(pos, group.lookback_steps), group.params, about, calendar, grid[pos]
            )
            n, differing = _compare_values(row, allowed, group.names, spread, pos)
            n_compared += n
            for value in differing:
                differing_rows.setdefault(value.feature, []).append(value)
    # computed only if something differs, and then once
    recompute = cache(lambda: build_features_as_known(rows, about, params, calendar))
    return (
        [
            _build_finding(differing_rows[name], history, about, params, spread[name], calendar, recompute)
            for name in sorted(differing_rows)
        ],
        len(positions),
        n_compared,
    )


def select_origin_positions(
    rows: pl.DataFrame, grid: pl.Series, cutoffs: pl.Series, n_cutoffs: int, calendar: Calendar
) -> list[int]:
    """Positions of the origins to compare, ascending.

    They are one from each of *n_cutoffs* equal parts, the newest, and for late rows the first and
    the last origin before they were known.
    """
    n = len(grid)
    edges = np.linspace(0, n, min(n, n_cutoffs) + 1)
    # at random within the parts: even distances could hit one phase of a season only
    drawn = edges[:-1] + np.random.default_rng(0).random(len(edges) - 1) * np.diff(edges)
    late = rows.filter(pl.col("known_at") > calendar.nominal_known_at()).sort(
        "known_at", "series_id", "event_time"
    )
    picked = (
        late[np.unique(np.linspace(0, late.height - 1, min(late.height, LATE_ROWS)).astype(np.int64))]
        if late.height
        else late
    )
    first = grid.search_sorted(picked["event_time"]).to_list()
    last = (cutoffs.search_sorted(picked["known_at"], side="left") - 1).to_list() if late.height else []
    return sorted(
        {
            n - 1,
            *drawn.astype(np.int64).tolist(),
            *(p for p in first if p < n),
            *(int(p) for p in last if 0 <= p < n),
        }
    )


def find_unclosed_bars(rows: pl.DataFrame, about: About, calendar: Calendar) -> list[LeakFinding]:
    """Bars whose latest vintage was known before the bar ended.

    Such a bar was still open, or its `known_at` is the time of its opening.
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
    ordered = bars.sort("series_id", "event_time", "known_at")
    early = ordered.unique(["series_id", "event_time"], keep="last", maintain_order=True).filter(
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
            says=f"The bar of {row['event_time']:%F %T}Z of series {row['series_id']!r} was known at "
            f"{row['known_at']:%F %T}Z, before it was closed, and no later vintage replaces it "
            f"({early.height} such bars). A bar is known when it is over: correct "
            f"`ingest.source.known_at_column`, or leave the open bar out.",
        )
    ]


def _iterate_groups(about: About, params: FeatureParams) -> Iterator[RecomputedGroup]:
    """The groups: all built-in features with the longest lookback, and each function by itself.

    The service keeps the longest lookback; a function must not need that of another.
    """
    functions = [spec for spec in params.list if isinstance(spec, Function)]
    built_in = params.model_copy(
        update={"list": tuple(spec for spec in params.list if not isinstance(spec, Function))}
    )
    columns = build_declared_columns(about, built_in)
    yield RecomputedGroup([c.name for c in columns], built_in, max(c.lookback_steps for c in columns))
    for spec in functions:
        yield RecomputedGroup(
            [build_function_column(spec).name],
            params.model_copy(update={"list": (spec,), "scale": None}),
            spec.lookback_steps,
        )


def _compute_at_origin(
    known: pl.DataFrame, params: FeatureParams, about: About, calendar: Calendar, origin: datetime
) -> pl.DataFrame:
    """The features at *origin* of every series that has a row in *known*."""
    return build_features(known, about, params, calendar, origin).filter(pl.col("event_time") == origin)


def _compare_values(
    row: pl.DataFrame, allowed: pl.DataFrame, names: list[str], spread: dict[str, float], pos: int
) -> tuple[int, list[DifferingRow]]:
    """How many values were compared, and those that differ by more than rounding.

    A series without a known row in the tail is left out.
    """
    both = row.select("series_id", *names).join(
        allowed.select("series_id", *names),
        on="series_id",
        how="inner",
        suffix=" allowed",
        maintain_order="left",
    )
    seen, recomputed = (
        both.select(pl.col(columns).cast(pl.Float64).fill_null(float("nan"))).to_numpy()
        for columns in (names, [f"{name} allowed" for name in names])
    )
    differs = ~_is_equal(seen, recomputed, np.array([spread[name] for name in names]))
    return both.height * len(names), [
        DifferingRow(names[f], both["series_id"][int(i)], pos, float(seen[i, f]), float(recomputed[i, f]))
        for f, i in np.argwhere(differs.T)
    ]


def _is_equal(seen: np.ndarray, recomputed: np.ndarray, spread: float | np.ndarray) -> np.ndarray:
    """Whether two values are equal up to rounding; NaN equals NaN."""
    tolerance = RELATIVE * np.abs(recomputed) + OF_SPREAD * spread
    is_near: np.ndarray = np.abs(seen - recomputed) <= tolerance
    return is_near | (np.isnan(seen) & np.isnan(recomputed))


def _build_finding(
    differing: list[DifferingRow],
    history: History,
    about: About,
    params: FeatureParams,
    spread: float,
    calendar: Calendar,
    recompute: Callable[[], pl.DataFrame],
) -> LeakFinding:
    """The finding of one feature, by its first differing value.

    The rule follows from the fewest rows with which the table's value is computed.
    """
    row = differing[0]
    origin = history.grid[row.pos]

    def has_seen(table: pl.DataFrame) -> bool:
        value = table.filter((pl.col("event_time") == origin) & (pl.col("series_id") == row.series_id))[
            row.feature
        ].cast(pl.Float64)
        return bool(_is_equal(np.array([row.seen]), value.fill_null(float("nan")).to_numpy(), spread).any())

    if has_seen(_compute_at_origin(history.select_known(row.pos), params, about, calendar, origin)):
        rule = "lookback"
    elif has_seen(_compute_at_origin(history.select_steps(row.pos), params, about, calendar, origin)):
        rule = "known_at"
    else:
        rule = "look_ahead" if _has_all_values(recompute(), differing, history, spread) else "not_repeatable"
    cutoff = history.cutoffs[row.pos]
    seen, allowed = (f"{v:.6g}" if np.isfinite(v) else "unknown" for v in (row.seen, row.allowed))
    return LeakFinding(
        rule=rule,
        feature=row.feature,
        series_id=row.series_id,
        cutoff=cutoff.isoformat(),
        n_rows=len(differing),
        seen=_format_number(row.seen),
        allowed=_format_number(row.allowed),
        says=f"{row.feature!r} of series {row.series_id!r} at the cutoff {cutoff:%F %T}Z is {seen} in the "
        f"table, and {allowed} {_WHY[rule]} ({len(differing)} of the compared rows).",
    )


def _has_all_values(
    table: pl.DataFrame, differing: list[DifferingRow], history: History, spread: float
) -> bool:
    """Whether *table* has all differing values as seen; a single one may be equal by chance."""
    rows = pl.DataFrame(
        {
            "series_id": [r.series_id for r in differing],
            "event_time": history.grid.gather([r.pos for r in differing]),
            "seen": [r.seen for r in differing],
        }
    )
    both = rows.join(
        table.select(
            "series_id",
            "event_time",
            recomputed=pl.col(differing[0].feature).cast(pl.Float64).fill_null(float("nan")),
        ),
        on=["series_id", "event_time"],
        how="left",
    )
    return bool(
        _is_equal(
            both["seen"].to_numpy(), both["recomputed"].fill_null(float("nan")).to_numpy(), spread
        ).all()
    )


def _format_number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


_WHY = {
    "look_ahead": (
        "from the rows before that cutoff: it reads later steps. Compute it from the step and those before"
        " it, or remove it from `features.list`"
    ),
    "known_at": (
        "from what was known by then: it uses values that arrived, or were corrected, later. Run `dvc repro"
        " features`; if the finding stays, remove it from `features.list`"
    ),
    "lookback": (
        "from the steps that it declares, so the service would give other numbers than the batch. Raise its"
        " `lookback_steps`, or cut its window there"
    ),
    "not_repeatable": (
        "when it is computed again, on all rows too: the table is of other code or data, or the function is"
        " not deterministic. Run `dvc repro features`, and let a function depend on its argument alone"
    ),
}
