"""Late rows and corrections: the features of an origin use what was known at its cutoff.

Nearly all rows are known when their step is nominally known, and one pass over the newest values
is right for every origin. The few origins between a step and the time at which its newest value
was known are computed again, each from its own tail, as the service would have done then.
"""

from datetime import UTC, datetime

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.blocks import split_blocks
from tasks.core.calendar import Calendar
from tasks.core.frames import VINTAGES
from tasks.core.kinds import get_kind
from tasks.features.columns import build_declared_columns
from tasks.features.params import FeatureParams
from tasks.features.table import add_target, build_feature_columns, build_features, filter_steps

_MAX_ORIGINS = 2000  # in one pass, each with its lookback: some 300,000 rows with a lookback of 160
_NEVER_KNOWN = datetime(1, 1, 1, tzinfo=UTC)


def build_features_as_known(
    rows: pl.DataFrame, about: About, params: FeatureParams, calendar: Calendar
) -> pl.DataFrame:
    """`build_features`, with the features of each origin as known at its cutoff; y and z as now.

    rows: SERIES with all vintages. The features of each row equal those of
    `build_features(select_as_of(rows, cutoff), ..., last_step=event_time)`.
    """
    table = build_features(rows, about, params, calendar)
    steps = filter_steps(add_target(rows, about), about, calendar)
    late = steps.filter(pl.col("known_at") > calendar.nominal_known_at())
    if late.is_empty():
        return table
    columns = build_declared_columns(about, params)
    if others := [c for c in columns if c.sees == "others"]:
        on_time = _filter_on_time(steps, late, calendar)
        as_known = build_feature_columns(on_time, steps, others, about, calendar, centres=params.centres)
        table = table.with_columns(as_known[c.name] for c in others)
    # columns of the key are always known, and those known ahead are read as each cutoff knew them
    own_columns = [c for c in columns if c.sees == "own"]
    lookback, centre_of = max(c.lookback_steps for c in own_columns), dict(params.centres)
    positions = table.select("series_id", "event_time", cutoff=calendar.nominal_known_at()).with_row_index(
        "position"
    )
    first = positions.group_by("series_id").agg(first=pl.col("position").min())
    positions = positions.join(first, on="series_id", maintain_order="left")
    affected = _find_affected(late, positions, lookback)
    for part in split_blocks(len(affected), _MAX_ORIGINS):
        origins = positions[affected[part]]
        tails = _build_tails(steps, positions, origins, lookback)
        centres = tuple(
            (f"{position:012d}", centre_of[series_id])  # as `_build_tails` names it
            for position, series_id in origins.select("position", "series_id").iter_rows()
            if series_id in centre_of
        )
        as_known = (
            build_feature_columns(tails, tails, own_columns, about, calendar, centres=centres)
            .group_by("series_id", maintain_order=True)
            .last()
        )
        table = table.with_columns(
            table[c.name].scatter(origins["position"], as_known[c.name]) for c in own_columns
        )
    return table


def select_superseded(rows: pl.DataFrame, about: About, calendar: Calendar) -> pl.DataFrame:
    """VINTAGES: y and z of each row that a later vintage corrects.

    rows: SERIES with all vintages, sorted.
    """
    steps = filter_steps(add_target(rows, about), about, calendar)
    is_corrected = (pl.col("series_id") == pl.col("series_id").shift(-1)) & (
        pl.col("event_time") == pl.col("event_time").shift(-1)
    )
    return VINTAGES.conform(
        steps.filter(is_corrected).select(*VINTAGES.key, "y", z=get_kind(about.target).encode(about.target))
    )


def _filter_on_time(steps: pl.DataFrame, late: pl.DataFrame, calendar: Calendar) -> pl.DataFrame:
    """The rows known at their step's own cutoff; a late row is replaced by one without values."""
    on_time = steps.filter(pl.col("known_at") <= calendar.nominal_known_at())
    missing = late.join(on_time, on=["series_id", "event_time"], how="anti").unique(
        ["series_id", "event_time"]
    )
    values = [c for c in steps.columns if c not in {"series_id", "event_time", "known_at"}]
    return pl.concat(
        [
            on_time,
            missing.with_columns(
                calendar.nominal_known_at().alias("known_at"),
                *(pl.lit(None, pl.Float64).alias(c) for c in values),
            ),
        ]
    )


def _find_affected(late: pl.DataFrame, positions: pl.DataFrame, lookback_steps: int) -> np.ndarray:
    """Positions of the origins that look back on a late row and have a cutoff before it was known.

    They are ascending.
    """
    rows = late.select("series_id", "event_time", "known_at").join(positions, on=["series_id", "event_time"])
    reach = np.arange(lookback_steps + 1)
    n, is_affected = positions.height, np.zeros(positions.height, dtype=bool)
    cutoff, series = positions["cutoff"].to_physical().to_numpy(), positions["first"].to_numpy()
    for part in split_blocks(rows.height, max(1, 10_000_000 // len(reach))):
        position = rows["position"][part].to_numpy().astype(np.int64)[:, None] + reach
        is_inside = position < n
        position = np.minimum(position, n - 1)
        is_inside &= series[position] == rows["first"][part].to_numpy()[:, None]
        is_inside &= cutoff[position] < rows["known_at"][part].to_physical().to_numpy()[:, None]
        is_affected[position[is_inside]] = True
    return np.flatnonzero(is_affected)


def _build_tails(
    steps: pl.DataFrame, positions: pl.DataFrame, origins: pl.DataFrame, lookback_steps: int
) -> pl.DataFrame:
    """For each origin a series of its own: its lookback as known at its cutoff, and an empty row.

    The row without values is at the origin itself, so that the series ends there.
    """
    names = pl.format("{}", pl.col("origin")).str.zfill(12)
    pairs = origins.select(
        origin="position",
        known_by="cutoff",
        position=pl.int_ranges(
            pl.max_horizontal("first", pl.col("position").cast(pl.Int64) - lookback_steps),
            pl.col("position") + 1,
        ),
    ).explode("position")
    vintages = steps.join(
        positions.select("series_id", "event_time", pl.col("position").cast(pl.Int64)),
        on=["series_id", "event_time"],
    )
    tails = pairs.join(vintages, on="position").filter(pl.col("known_at") <= pl.col("known_by"))
    ends = origins.select(pl.col("position").alias("origin"), "event_time").with_columns(
        known_at=pl.lit(_NEVER_KNOWN).cast(pl.Datetime("us", "UTC"))
    )
    both = pl.concat(
        [tails.select("origin", pl.exclude("origin", "known_by", "position", "series_id")), ends],
        how="diagonal",
    )
    return both.with_columns(names.alias("series_id")).select(steps.columns)
