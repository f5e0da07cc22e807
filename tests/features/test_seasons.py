"""Seasons, time and holidays beside the laws: exact over decades, in any zone, on any calendar;
errors that help."""

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from math import cos, pi, sin

import numpy as np
import polars as pl
import pytest

from tasks.core.about import About, Target
from tasks.core.calendar import build_calendar
from tasks.core.errors import FeatureInputError
from tasks.core.frames import SERIES
from tasks.features import FeatureParams, build_features


def table_of(times, *specs, every="1h", calendar="continuous", horizon_steps=2):
    about = About(
        description="t",
        every=every,
        calendar=calendar,
        target=Target(column="load", unit="MW"),
        horizon_steps=horizon_steps,
    )
    rows = pl.DataFrame({"series_id": "a", "event_time": times, "load": 1.0}).with_columns(
        known_at=pl.col("event_time").dt.offset_by(every)
    )
    rows = SERIES.conform(rows.with_columns(pl.col("event_time", "known_at").cast(pl.Datetime("us", "UTC"))))
    laid = build_calendar(about, reach=(min(times), max(times)))
    return build_features(rows, about, FeatureParams.model_validate({"list": list(specs)}), laid)


@pytest.mark.parametrize("year", [1971, 2024, 2069])
def test_a_season_is_exact_to_the_last_bits_of_float32_decades_away(year):
    """Against whole numbers of microseconds as fractions, which do not round."""
    times = [datetime(year, 5, 17, hour, tzinfo=UTC) for hour in range(24)]
    specs = [
        {"kind": "fourier", "order": 3, **period}
        for period in ({"period": "day"}, {"period_steps": 168}, {"period_days": 7.25}, {"period": "month"})
    ]
    table = table_of(times, *specs)
    for t, row in zip(times, table.iter_rows(named=True), strict=True):
        hours = Fraction(int((t - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()), 3600)
        month = Fraction((t - datetime(year, 5, 1, tzinfo=UTC)) // timedelta(hours=1), 31 * 24)
        for name, turns in (
            ("day", hours / 24),
            ("168_steps", hours / 168),
            ("7.25_days", hours / 174),
            ("month", month),
        ):
            for k in (1, 2, 3):
                angle = 2 * pi * float(k * turns % 1)
                assert row[f"fourier_{name}_sin_{k}"] == pytest.approx(sin(angle), abs=6.1e-8)
                assert row[f"fourier_{name}_cos_{k}"] == pytest.approx(cos(angle), abs=6.1e-8)


def test_time_keeps_every_step_apart_and_a_trend_straight():
    """Float32 would hold days as one number to 3 minutes; as two it holds every minute of a
    century."""
    times = [datetime(2069, 5, 17, tzinfo=UTC) + timedelta(seconds=20 * k) for k in range(5000)]
    table = table_of(times, {"kind": "time"}, every="20s")
    days = table["time_days"].cast(pl.Float64) + table["time_day_frac"].cast(pl.Float64)
    expected = np.array([(t - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() for t in times])
    assert np.abs(days.to_numpy() * 86400 - expected).max() < 0.0052


def test_steps_count_working_days_and_months_from_1970():
    days = [datetime(2024, 3, d, tzinfo=UTC) for d in (4, 5, 6, 7, 8, 11)]
    five = {"kind": "fourier", "period_steps": 5, "order": 1}
    week = table_of(days, five, every="1d", calendar="weekdays")["fourier_5_steps_sin_1"]
    assert week[0] == pytest.approx(week[5], abs=1e-7)
    assert len(set(week.round(5))) == 5
    months = [datetime(2024, m, 1, tzinfo=UTC) for m in range(1, 13)]
    year = table_of(months, {"kind": "fourier", "period_steps": 12, "order": 1}, every="1mo")[
        "fourier_12_steps_cos_1"
    ]
    assert np.abs(year.to_numpy() - np.cos(2 * pi * np.arange(12 * 54 + 1, 12 * 55 + 1) / 12)).max() < 1e-6
    with pytest.raises(
        FeatureInputError, match=r"'exchange:XNYS' does not reach\. Give `period` or `period_days`"
    ):
        table_of(days, five, every="1d", calendar="exchange:XNYS")


def test_a_holiday_is_one_of_the_local_date():
    """New Year comes to Tokyo 9 hours before it comes to Greenwich."""
    times = [datetime(2023, 12, 31, hour, tzinfo=UTC) for hour in range(24)]
    tokyo = {"kind": "holiday", "country": "JP", "time_zone": "Asia/Tokyo", "parts": ["is", "until", "ahead"]}
    table = table_of(times, tokyo)
    assert table["holiday_JP_Asia/Tokyo"].to_list() == [0.0] * 15 + [1.0] * 9
    assert table["holiday_JP_Asia/Tokyo_until_14"].to_list() == [1.0] * 15 + [0.0] * 9
    assert table["holiday_JP_Asia/Tokyo_ahead_2"].to_list() == [0.0] * 13 + [1.0] * 11


def test_the_steps_ahead_are_those_of_the_calendar():
    """On the exchange the second step after Friday before Labour Day 2024 is Wednesday, for
    Monday is no session; so no step falls on it."""
    days = [datetime(2024, 8, d, tzinfo=UTC) for d in (28, 29, 30)]
    spec = {"kind": "holiday", "country": "US", "within_days": 5}
    table = table_of(days, spec, every="1d", calendar="exchange:XNYS")
    assert table["holiday_US_ahead_1"].to_list() == table["holiday_US_ahead_2"].to_list() == [0.0] * 3
    assert table["holiday_US_until_5"].to_list() == [5.0, 4.0, 3.0]
    weekdays = table_of(days, spec, every="1d", calendar="weekdays")
    assert weekdays["holiday_US_ahead_1"].to_list() == [0.0, 0.0, 1.0]
    assert date(2024, 9, 2).weekday() == 0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"kind": "holiday", "country": "DE", "subdivision": "ZZ"},
            "country 'DE', subdivision 'ZZ': .* Codes are those of the library `holidays`",
        ),
        ({"kind": "holiday", "country": "XQ"}, "country 'XQ'"),
        (
            {"kind": "holiday", "country": "DE", "time_zone": "Mars/Base"},
            "`time_zone: Mars/Base`, which does not exist",
        ),
        ({"kind": "fourier", "order": 1}, "exactly one of `period`"),
        ({"kind": "fourier", "order": 1, "period": "day", "period_days": 2}, "exactly one of `period`"),
        ({"kind": "macd", "column": "z", "fast_steps": 9, "slow_steps": 9}, "fast is the smaller one"),
        (
            {"kind": "rsi", "column": "z", "window_steps": [1]},
            r"rsi of 'z' has \[1\]; its window needs at least 2 steps",
        ),
        ({"kind": "atr", "window_steps": [14]}, "'ohlc_atr_14' reads column 'high'"),
        ({"kind": "cross", "column": "z", "of": ["series"]}, "needs `of`, and `series_id` with"),
    ],
)
def test_a_season_or_indicator_that_cannot_be_is_named_with_the_way_out(spec, words):
    with pytest.raises((FeatureInputError, ValueError), match=words):
        table_of([datetime(2024, 1, 1, tzinfo=UTC)], spec)
