"""The laws of features: each uses past rows of its own series, as far back as it declares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.features import FeatureParams, build_feature_schema, build_features
from tasks.features.specs import Function
from tasks.laws.feature_data import BARS, SeriesShape, build_about, build_rows, draw_rows
from tasks.laws.law import Law, LawBrokenError, check_equal, convert_to_numbers

N_FEEDS = 12  # drawn for each law
KEY = ["series_id", "event_time"]
N_KEY_COLUMNS = 6  # of a feature table, before the features
# Known without any value
ROW_COLUMNS = ("calendar_", "series_key_", "fourier_", "time_", "holiday_")


@dataclass(frozen=True)
class FeatureSubject:
    """Features to check.

    params: as resolved, functions with their source.
    tolerance_sd: allowed difference where numbers should be equal, in standard deviations; a user's
    function may round differently over a tail, and the leak gate allows the same.
    """

    params: FeatureParams
    tolerance_sd: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a user's functions read and that no bar has."""
        read = {c for spec in self.params.list if isinstance(spec, Function) for c in spec.columns_read}
        return tuple(sorted(read - {*BARS, "y", "z"}))

    @property
    def n_steps(self) -> int:
        """Of a series that is longer than any lookback."""
        functions = [spec for spec in self.params.list if isinstance(spec, Function)]
        return 45 + 3 * max((spec.lookback_steps for spec in functions), default=0)

    def build(self, rows: pl.DataFrame, about: About, **more: Any) -> pl.DataFrame:
        """The feature table of *rows*."""
        return build_features(rows, about, self.params, build_calendar(about), **more)


def check_no_look_ahead(
    subject: FeatureSubject, rows: pl.DataFrame, about: About, rng: np.random.Generator
) -> None:
    """Dropping later rows changes nothing before."""
    times = rows["event_time"].unique().sort()
    cut = times[int(rng.integers(len(times)))]
    before = subject.build(rows.filter(pl.col("event_time") <= cut), about, last_step=cut)
    after = subject.build(rows, about).join(before.select(KEY), on=KEY, how="semi")
    shared = before.join(after.select(KEY), on=KEY, how="semi")
    _compare(shared, after, f"without the rows after {cut:%F %R}", subject.tolerance_sd)


def check_tail(subject: FeatureSubject, rows: pl.DataFrame, about: About, rng: np.random.Generator) -> None:
    """A tail of `lookback_steps` steps before the row gives the numbers of the whole history."""
    batch = subject.build(rows, about)
    schema = build_feature_schema(about, subject.params)
    picked = batch[int(rng.integers(batch.height))]
    series, end = picked["series_id"][0], picked["event_time"][0]
    grid = build_calendar(about).grid(rows["event_time"].min(), end)  # type: ignore[arg-type]  # of rows
    history = rows.filter(pl.col("series_id") == series, pl.col("event_time") <= end)
    for lookback in {c.lookback_steps for c in schema.columns}:
        names = [c.name for c in schema.columns if c.lookback_steps <= lookback]
        tail = history.filter(pl.col("event_time") >= grid[max(0, len(grid) - 1 - lookback)])
        if tail.is_empty():
            # A user's function may compute from the time alone
            of_values = [c.name for c in schema.columns if c.name in names and c.code is None]
            of_values = [n for n in of_values if not n.startswith(ROW_COLUMNS)]
            if known := [n for n in of_values if picked[n][0] is not None]:
                raise LawBrokenError(f"{known} are known at {end:%F %R}, without any row in their lookback")
            continue
        online = subject.build(tail, about, last_step=end)[-1]
        scales = {n: subject.tolerance_sd * _compute_sd(batch[n]) for n in names}
        for name in names:
            actual, expected = (convert_to_numbers(frame[name]) for frame in (online, picked))
            value = f"{name} of {series} at {end:%F %R}, from the last {lookback} steps and the row"
            check_equal(actual, expected, value, scales[name])


def check_alone(subject: FeatureSubject, rows: pl.DataFrame, about: About, _: np.random.Generator) -> None:
    """A series has the same features alone as among others."""
    together = subject.build(rows, about)
    for (name,), series_rows in rows.group_by("series_id", maintain_order=True):
        expected = together.filter(pl.col("series_id") == name)
        _compare(subject.build(series_rows, about), expected, f"series {name} alone", subject.tolerance_sd)


def check_order(subject: FeatureSubject, rows: pl.DataFrame, about: About, rng: np.random.Generator) -> None:
    """The order of rows and series does not matter, and the rows stay unchanged."""
    shuffled = rows[rng.permutation(rows.height)]
    copy = shuffled.clone()
    _compare(subject.build(shuffled, about), subject.build(rows, about), "rows in another order", 0.0)
    if not shuffled.equals(copy):
        raise LawBrokenError("the rows were changed")
    other = {name: f"t{9 - i}" for i, name in enumerate(rows["series_id"].unique().sort())}
    renamed = rows.with_columns(pl.col("series_id").replace(other))
    expected = subject.build(rows, about).with_columns(pl.col("series_id").replace(other)).sort(KEY)
    of_key = [name for name in expected.columns if name.startswith("series_key_")]
    actual = subject.build(renamed, about).drop(of_key)
    _compare(actual, expected.drop(of_key), "series in another order", subject.tolerance_sd)


def check_repeatable(
    subject: FeatureSubject, rows: pl.DataFrame, about: About, _: np.random.Generator
) -> None:
    """A second computation gives the same numbers."""
    _compare(subject.build(rows, about), subject.build(rows, about), "computed twice", 0.0)


def check_short_and_missing(
    subject: FeatureSubject, rows: pl.DataFrame, about: About, _: np.random.Generator
) -> None:
    """One step is enough, and so are steps without any value."""
    first = rows.group_by("series_id", maintain_order=True).head(1)
    empty = rows.with_columns(pl.lit(None, pl.Float64).alias(c) for c in about.covariates.past)
    for name, part in (("one step", first), ("no value", empty)):
        n_steps = subject.build(part, about).height
        if n_steps < part["series_id"].n_unique():
            raise LawBrokenError(f"series with {name} have {n_steps} rows of features")


FeatureCheck = Callable[[FeatureSubject, pl.DataFrame, About, np.random.Generator], None]


def _run_on_feeds(check: FeatureCheck) -> Callable[[FeatureSubject], str]:
    """*check* on drawn feeds: first one without holes that is longer than any lookback."""

    def run(subject: FeatureSubject) -> str:
        n_rows = 0
        for seed in range(N_FEEDS):
            rng = np.random.default_rng(seed)
            if seed == 0:
                about = build_about(columns=subject.columns)
                rows = build_rows(about, [SeriesShape(subject.n_steps)] * 2, rng, subject.columns)
            else:
                rows, about = draw_rows(rng, subject.n_steps, subject.columns)
            check(subject, rows, about, rng)
            n_rows += rows.height
        return f"holds on {N_FEEDS} feeds of {n_rows:,} rows"

    return run


def _compare(actual: pl.DataFrame, expected: pl.DataFrame, name: str, tolerance_sd: float) -> None:
    """Raises LawBrokenError unless the two feature tables are equal up to *tolerance_sd*."""
    if not actual.select(KEY).equals(expected.select(KEY)):
        raise LawBrokenError(f"{name}: {actual.height} steps instead of {expected.height}")
    if actual.equals(expected):
        return
    for column in expected.columns[4:]:
        a, b = convert_to_numbers(actual[column]), convert_to_numbers(expected[column])
        check_equal(a, b, f"{name}, {column}", tolerance_sd * _compute_sd(expected[column]))
    if not tolerance_sd:
        raise LawBrokenError(f"{name}: the tables differ")


def _compute_sd(column: pl.Series) -> float:
    values = convert_to_numbers(column)
    return float(np.nanstd(values)) if np.isfinite(values).any() else 0.0


FEATURE_CHECKS = (
    check_no_look_ahead,
    check_tail,
    check_alone,
    check_order,
    check_repeatable,
    check_short_and_missing,
)
FEATURE_LAWS = (
    Law(
        "later rows change nothing before",
        "Compute each number from its own step and earlier ones; no mean or rank over the whole series.",
        _run_on_feeds(check_no_look_ahead),
    ),
    Law(
        "`lookback_steps` is enough",
        "Raise `lookback_steps`, or cut what smooths without end at a fixed number of steps.",
        _run_on_feeds(check_tail),
    ),
    Law(
        "a series alone has the same features",
        "Keep nothing between calls: the function is called once for each series.",
        _run_on_feeds(check_alone),
    ),
    Law(
        "the order of rows and series does not matter",
        "Keep nothing between calls, and leave the argument unchanged.",
        _run_on_feeds(check_order),
    ),
    Law(
        "it is deterministic",
        "Use no random numbers, no clock and nothing kept from an earlier call.",
        _run_on_feeds(check_repeatable),
    ),
    Law(
        "one step and missing values are accepted",
        "Return NaN where too little is known; do not index beyond the first step.",
        _run_on_feeds(check_short_and_missing),
    ),
)
