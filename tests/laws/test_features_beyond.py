"""Laws of the features that see more than the past of their own series: across series, and ahead
of the origin."""

import statistics
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from support.feeds import feeds

from tasks.core.about import Covariates
from tasks.core.calendar import build_calendar
from tasks.core.frames import SERIES, select_as_of
from tasks.features import FeatureParams, build_features, build_features_as_known
from tasks.laws.feature_data import BARS

OF = ["mean", "median", "std", "others_mean", "rank", "share"]
LIST = [
    {"kind": "cross", "column": "close", "of": OF},
    {"kind": "cross", "column": "z", "of": ["series"], "series_id": "s1"},
    {"kind": "ahead", "column": "plan"},
    {"kind": "mean", "column": "close", "window_steps": [3]},
]
PARAMS = FeatureParams.model_validate({"list": LIST, "last_within_steps": 2})
law = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def feeds_with_plans(draw):
    """(rows, about): bars, some of them late or corrected, and rows that say something of `plan`
    up to 9 steps ahead, some of them twice."""
    rows, about = draw(feeds())
    about = about.model_copy(update={"covariates": Covariates(past=BARS, known_ahead=("plan",))})
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    late = pl.Series(
        rng.integers(1, 60, rows.height) * (rng.random(rows.height) < draw(st.sampled_from([0.0, 0.2])))
    )
    rows = rows.with_columns(
        pl.col("known_at") + pl.duration(hours=late), plan=pl.Series(rng.standard_normal(rows.height))
    )
    corrected = rows.filter(pl.Series(rng.random(rows.height) < 0.1)).with_columns(
        pl.col("known_at") + timedelta(hours=31), *(pl.col(c) * 1.01 for c in BARS)
    )
    calendar, said = build_calendar(about), []
    for (name,), own in rows.group_by("series_id", maintain_order=True):
        last = own["event_time"].max()
        steps = pl.concat([calendar.grid(own["event_time"].min(), last), calendar.list_next_steps(last, 6)])
        for k in range(2):
            at = steps.filter(pl.Series(rng.random(len(steps)) < 0.7))
            before = pl.Series(rng.integers(1, 9 * 6, len(at)))
            frame = pl.DataFrame(
                {
                    "series_id": pl.repeat(name, len(at), eager=True, dtype=pl.String),
                    "event_time": at,
                    "plan": rng.standard_normal(len(at)) + k,
                }
            )
            said.append(frame.with_columns(known_at=calendar.nominal_known_at() - pl.duration(hours=before)))
    planned = pl.concat(said).with_columns(pl.lit(None, pl.Float64).alias(c) for c in BARS)
    both = pl.concat([rows, corrected, planned.select(rows.columns)]).unique(
        ["series_id", "event_time", "known_at"], keep="first", maintain_order=True
    )
    return SERIES.conform(both), about


def known(rows, about, params=PARAMS):
    return build_features_as_known(rows, about, params, build_calendar(about))


def slow_cross(own, values):
    """own: the row's value; values: of all series that have one."""
    if not values:
        return dict.fromkeys(OF)
    others = [v for v in values if v is not own]
    below, same = (
        sum(op(v) for v in values) for op in (lambda v: own is not None and v < own, lambda v: v == own)
    )
    rank = None if own is None else (below + (same - 1) / 2) / (len(values) - 1) if len(values) > 1 else 0.5
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "others_mean": statistics.fmean(others) if others else None,
        "rank": rank,
        "share": None if own is None else own / sum(values),
    }


@law
@given(feeds_with_plans())
def test_columns_across_and_ahead_equal_the_slow_oracle_at_each_cutoff(feed):
    rows, about = feed
    calendar, table = build_calendar(about), known(rows, about)
    for row in table.iter_rows(named=True):
        cutoff = calendar.get_cutoff(row["event_time"])
        then = rows.filter(pl.col("known_at") <= cutoff)
        now = select_as_of(
            then.filter(pl.col("event_time") == row["event_time"], pl.col("known_at") >= cutoff), cutoff
        )
        close = dict(now.select("series_id", "close").iter_rows())
        expected = {
            f"close_cross_{of}": v
            for of, v in slow_cross(
                close.get(row["series_id"]), [v for v in close.values() if v is not None]
            ).items()
        }
        for s, at in enumerate(calendar.list_next_steps(row["event_time"], about.horizon_steps), 1):
            said = then.filter(pl.col("series_id") == row["series_id"], pl.col("event_time") == at).sort(
                "known_at"
            )["plan"]
            expected[f"plan_ahead_{s}"] = said[-1] if len(said) else None
        for name, value in expected.items():
            assert (row[name] is None) == (value is None), (name, row, value)
            assert value is None or row[name] == pytest.approx(value, rel=2e-7, abs=1e-7), name


@law
@given(feeds_with_plans())
def test_a_named_series_lends_its_value_at_the_same_step(feed):
    rows, about = feed
    table = build_features(rows, about, PARAMS, build_calendar(about))
    lent = table.filter(pl.col("series_id") == "s1").select("event_time", lent=pl.col("z").cast(pl.Float32))
    seen = table.join(lent, on="event_time", how="left", maintain_order="left")
    assert seen["z_cross_series_s1"].to_list() == seen["lent"].to_list()


@law
@given(feeds_with_plans(), st.data())
def test_what_is_known_later_changes_nothing_at_an_earlier_cutoff(feed, data):
    """As the service would have spoken then: from all vintages known by the cutoff."""
    rows, about = feed
    calendar, table = build_calendar(about), known(rows, about)
    row = table.row(data.draw(st.integers(0, table.height - 1)), named=True)
    then = rows.filter(pl.col("known_at") <= calendar.get_cutoff(row["event_time"]))
    seen = build_features(then, about, PARAMS, calendar, last_step=row["event_time"])
    own = seen.filter(pl.col("series_id") == row["series_id"], pl.col("event_time") == row["event_time"])
    if own.height:
        assert own.row(0)[6:] == tuple(row[c] for c in own.columns[6:])


@law
@given(feeds_with_plans(), st.data())
def test_the_tails_of_all_series_give_the_batchs_numbers(feed, data):
    rows, about = feed
    calendar = build_calendar(about)
    batch = build_features(rows, about, PARAMS, calendar)
    row = batch.row(data.draw(st.integers(0, batch.height - 1)), named=True)
    grid = calendar.grid(rows["event_time"].min(), row["event_time"])
    tail = rows.filter(pl.col("event_time") >= grid[max(0, len(grid) - 1 - 2)])
    steps = build_features(tail, about, PARAMS, calendar, last_step=row["event_time"])
    own = steps.filter(pl.col("series_id") == row["series_id"], pl.col("event_time") == row["event_time"])
    beyond = [c for c in batch.columns if "_cross_" in c or "_ahead_" in c]
    if own.height:
        assert own.select(beyond).row(0) == tuple(row[c] for c in beyond)


@law
@given(feeds_with_plans(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_of_series_does_not_matter(feed, random):
    rows, about = feed
    shuffled = rows[random.sample(range(rows.height), rows.height)]
    assert_frame_equal(known(shuffled, about), known(rows, about), check_exact=True)
    other = {"s0": "s2", "s2": "s0"}
    renamed = SERIES.conform(rows.with_columns(pl.col("series_id").replace(other)))
    back = (
        known(renamed, about).with_columns(pl.col("series_id").replace(other)).sort("series_id", "event_time")
    )
    assert_frame_equal(back, known(rows, about), rel_tol=1e-6)


@law
@given(feeds_with_plans())
def test_rows_said_ahead_are_no_steps(feed):
    """The grid, y, z and all that reads the past are as without them."""
    rows, about = feed
    came = rows.filter(pl.col("known_at") >= build_calendar(about).nominal_known_at())
    table, without = known(rows, about), known(came, about)
    same = [c for c in table.columns if "_ahead_" not in c]
    assert_frame_equal(table.select(same), without.select(same), check_exact=True)
