"""Late rows and corrections: an origin sees what was known at its cutoff, not what the table knows
by now.

Nearly all rows are known when their step is nominally known, and one pass over the newest values
serves every origin. The few origins between a step and the moment its newest value was known are
computed again, each from its own tail, as the service would have done then.
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

_ORIGINS_AT_ONCE = 2000  # each brings its lookback along: some 300,000 rows with a lookback of 160
_NEVER_KNOWN = datetime(1, 1, 1, tzinfo=UTC)


def build_features_as_known(
    rows: pl.DataFrame, about: About, params: FeatureParams, calendar: Calendar
) -> pl.DataFrame:
    """As `build_features`, with the features of each origin as they could be computed at its
    cutoff; y and z are the newest known.

    rows: SERIES with all vintages. For every row, the features equal those of
    `build_features(as_of(rows, cutoff), ..., until=event_time)`.
    """
    table = build_features(rows, about, params, calendar)
    steps = filter_steps(add_target(rows, about), about, calendar)
    late = steps.filter(pl.col("known_at") > calendar.nominal_known_at())
    if late.is_empty():
        return table
    columns = build_declared_columns(about, params)
    if others := [c for c in columns if c.sees == "others"]:
        then = build_feature_columns(_filter_on_time(steps, late, calendar), steps, others, about, calendar)
        table = table.with_columns(then[c.name] for c in others)
    # What the key says was always known, and what is said ahead is read as each cutoff knew it
    own = [c for c in columns if c.sees == "own"]
    lookback = max(c.lookback_steps for c in own)
    places = table.select("series_id", "event_time", cutoff=calendar.nominal_known_at()).with_row_index(
        "place"
    )
    first = places.group_by("series_id").agg(first=pl.col("place").min())
    places = places.join(first, on="series_id", maintain_order="left")
    touched = _find_touched(late, places, lookback)
    for part in split_blocks(len(touched), _ORIGINS_AT_ONCE):
        origins = places[touched[part]]
        tails = _build_tails(steps, places, origins, lookback)
        now = (
            build_feature_columns(tails, tails, own, about, calendar)
            .group_by("series_id", maintain_order=True)
            .last()
        )
        table = table.with_columns(table[c.name].scatter(origins["place"], now[c.name]) for c in own)
    return table


def select_superseded(rows: pl.DataFrame, about: About, calendar: Calendar) -> pl.DataFrame:
    """VINTAGES of *rows* (SERIES with all vintages, sorted): y and z of each step that a later
    one corrects.
    """
    steps = filter_steps(add_target(rows, about), about, calendar)
    corrected = (pl.col("series_id") == pl.col("series_id").shift(-1)) & (
        pl.col("event_time") == pl.col("event_time").shift(-1)
    )
    return VINTAGES.conform(
        steps.filter(corrected).select(*VINTAGES.key, "y", z=get_kind(about.target).encode(about.target))
    )


def _filter_on_time(steps: pl.DataFrame, late: pl.DataFrame, calendar: Calendar) -> pl.DataFrame:
    """What was there at each step's own cutoff; a row that came later leaves its place empty."""
    came = steps.filter(pl.col("known_at") <= calendar.nominal_known_at())
    missing = late.join(came, on=["series_id", "event_time"], how="anti").unique(["series_id", "event_time"])
    values = [c for c in steps.columns if c not in {"series_id", "event_time", "known_at"}]
    return pl.concat(
        [
            came,
            missing.with_columns(
                calendar.nominal_known_at().alias("known_at"),
                *(pl.lit(None, pl.Float64).alias(c) for c in values),
            ),
        ]
    )


def _find_touched(late: pl.DataFrame, places: pl.DataFrame, lookback_steps: int) -> np.ndarray:
    """Places of the origins at or after a late row that look back on it and whose cutoff comes
    before it was known; ascending.
    """
    own = late.select("series_id", "event_time", "known_at").join(places, on=["series_id", "event_time"])
    reach = np.arange(lookback_steps + 1)
    n, touched = places.height, np.zeros(places.height, dtype=bool)
    cutoff, series = places["cutoff"].to_physical().to_numpy(), places["first"].to_numpy()
    for part in split_blocks(own.height, max(1, 10_000_000 // len(reach))):
        place = own["place"][part].to_numpy().astype(np.int64)[:, None] + reach
        inside = place < n
        place = np.minimum(place, n - 1)
        inside &= series[place] == own["first"][part].to_numpy()[:, None]
        inside &= cutoff[place] < own["known_at"][part].to_physical().to_numpy()[:, None]
        touched[place[inside]] = True
    return np.flatnonzero(touched)


def _build_tails(
    steps: pl.DataFrame, places: pl.DataFrame, origins: pl.DataFrame, lookback_steps: int
) -> pl.DataFrame:
    """For each origin a series of its own: what its lookback held at its cutoff, and a row
    without values at the origin itself.
    """
    names = pl.format("{}", pl.col("origin")).str.zfill(12)
    pairs = origins.select(
        origin="place",
        known_by="cutoff",
        place=pl.int_ranges(
            pl.max_horizontal("first", pl.col("place").cast(pl.Int64) - lookback_steps), pl.col("place") + 1
        ),
    ).explode("place")
    vintages = steps.join(
        places.select("series_id", "event_time", pl.col("place").cast(pl.Int64)),
        on=["series_id", "event_time"],
    )
    tails = pairs.join(vintages, on="place").filter(pl.col("known_at") <= pl.col("known_by"))
    ends = origins.select(pl.col("place").alias("origin"), "event_time").with_columns(
        known_at=pl.lit(_NEVER_KNOWN).cast(pl.Datetime("us", "UTC"))
    )
    both = pl.concat(
        [tails.select("origin", pl.exclude("origin", "known_by", "place", "series_id")), ends], how="diagonal"
    )
    return both.with_columns(names.alias("series_id")).select(steps.columns)
