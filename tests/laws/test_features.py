"""Laws of every feature kind: an independent slow oracle, no look-ahead, tail = batch, no
neighbour, one name one computation.

Those that hold for a user's function as well are in tasks/laws/features.py.
"""

import hashlib
import math
import statistics
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from support.feeds import feeds
from support.slow_features import (
    SLOW_BARS,
    at,
    between,
    slow_bollinger,
    slow_macd,
    slow_row,
    slow_rsi,
    smooth,
    standing,
    window,
)

from tasks.core.calendar import build_calendar
from tasks.core.frames import FEATURES, SERIES, select_as_of
from tasks.features import FeatureParams, build_feature_schema, build_features, build_features_as_known
from tasks.laws.feature_data import BARS
from tasks.laws.features import FEATURE_CHECKS, ROW_COLUMNS, FeatureSubject

LIST = [
    {"kind": "lag", "column": "z", "steps": [1, 4]},
    {"kind": "mean", "column": "z", "window_steps": [1, 5, 8]},
    {"kind": "mean", "column": "close", "window_steps": [6]},
    {"kind": "std", "column": "z", "window_steps": [2, 7]},
    {"kind": "std", "column": "close", "window_steps": [6]},
    {"kind": "min", "column": "z", "window_steps": [3, 8]},
    {"kind": "max", "column": "z", "window_steps": [3, 7]},
    {"kind": "quantile", "column": "z", "window_steps": [5, 6], "q": 0.3},
    {"kind": "ewm", "column": "z", "span_steps": [1, 3]},
    {"kind": "return", "column": "close", "steps": [1, 3]},
    {"kind": "abs_return", "column": "close", "steps": [2]},
    {"kind": "negative_return", "column": "close", "steps": [1]},
    {"kind": "roc", "column": "close", "steps": [2]},
    {"kind": "zscore", "column": "z", "window_steps": [5]},
    {"kind": "drawdown", "column": "close", "window_steps": [6]},
    {"kind": "rsi", "column": "close", "window_steps": [2]},
    {"kind": "macd", "column": "z", "fast_steps": 1, "slow_steps": 3, "signal_steps": 2},
    {"kind": "bollinger", "column": "close", "window_steps": [5]},
    *(
        {"kind": kind, "window_steps": [3]}
        for kind in ("atr", "atr_frac", "stochastic", "obv_change", "parkinson", "rogers_satchell")
    ),
    {"kind": "fourier", "period": "week", "order": 2},
    {"kind": "fourier", "period": "year", "order": 1},
    {"kind": "fourier", "period_days": 29.530588, "order": 1},
    {"kind": "fourier", "period_steps": 9, "order": 1},
    {"kind": "time"},
    {"kind": "holiday", "country": "DE", "subdivision": "BY", "time_zone": "Europe/Berlin", "within_days": 9},
    {"kind": "change", "column": "z", "steps": [2, 3], "window_steps": 5},
    {"kind": "level_to_change_ratio", "column": "close", "steps": [2], "window_steps": 6},
    {"kind": "steadiness", "column": "close", "steps": [3], "window_steps": 6},
    {"kind": "garman_klass"},
    {"kind": "value", "column": "close"},
    {"kind": "series"},
    {
        "kind": "calendar",
        "parts": ["minute", "hour", "weekday", "day", "day_of_year", "week", "month", "quarter"],
    },
]
PARAMS = FeatureParams.model_validate({"list": LIST, "last_within_steps": 2, "scale": "z_std_7"})
ONE_BY_ONE = [FeatureParams.model_validate({"list": [entry], "last_within_steps": 2}) for entry in LIST]
# float32 holds 2^-24 of a number. What is a difference of close prices is known as well as these
# are, to 1e-11 of 1e5, and a share of such a
# difference to that over the least spread there is, 1e-2. An angle of the 20,000th day is known to
# 1e-12 turns.
KNOWN_TO = {
    "_position": 1e-6,
    "rsi": 1e-4,
    "zscore": 1e-6,
    "stochastic": 1e-4,
    "close": 1e-10,
    "obv": 1e-12,
    "ohlc_atr": 1e-10,
    "rogers": 1e-10,
    "parkinson": 1e-10,
    "fourier": 1e-10,
}
law = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def build(rows, about, params=PARAMS, **extra):
    return build_features(rows, about, params, build_calendar(about), **extra)


# --- the oracle: plain loops over lists, None where missing


def oracle(rows, about, params):
    """Rows of {name: value} by (series_id, event_time), from the declared list, written without
    any of the product's helpers."""
    grid = build_calendar(about).grid(rows["event_time"].min(), rows["event_time"].max()).to_list()
    found = {}
    for (name,), part in rows.group_by("series_id"):
        received = {r["event_time"]: r for r in part.iter_rows(named=True)}
        steps = [t for t in grid if min(received) <= t <= max(received)]
        columns = {c: [received.get(t, {}).get(c) for t in steps] for c in BARS}
        columns["gk"] = [bar_volatility(*bar) for bar in zip(*(columns[c] for c in BARS[:4]), strict=True)]
        columns["z"] = [None if y is None else math.log1p(y) for y in columns["gk"]]
        for i, t in enumerate(steps):
            row = {
                "z_last": next(
                    (
                        columns["z"][i - j]
                        for j in range(params.last_within_steps + 1)
                        if i >= j and columns["z"][i - j] is not None
                    ),
                    None,
                )
            }
            for s in range(1, about.horizon_steps + 1):
                k = next(k for k in range(about.season_steps) if (s + k) % about.season_steps == 0)
                row |= {f"z_lag_{k}": at(columns["z"], i - k)} if k else {}
            ahead = build_calendar(about).list_next_steps(t, about.horizon_steps).to_list()
            for spec in LIST:
                row |= (
                    slow_series(name)
                    if spec["kind"] == "series"
                    else slow_row(spec, t, ahead, about) or slow(spec, columns, i, t)
                )
            found[name, t] = row
    return found


def bar_volatility(o, h, low, c):
    if None in (o, h, low, c):
        return None
    return math.sqrt(max(0.0, 0.5 * math.log(h / low) ** 2 - (2 * math.log(2) - 1) * math.log(c / o) ** 2))


def slow(spec, columns, i, t):
    by_kind = {
        "calendar": slow_calendar,
        "garman_klass": lambda *_: {"ohlc_garman_klass": columns["gk"][i]},
        "ewm": slow_ewm,
    }
    by_kind |= {
        "value": lambda *_: {"close_value": columns["close"][i]},
        "lag": lambda *_: {f"z_lag_{k}": at(columns["z"], i - k) for k in spec["steps"]},
    }
    by_kind |= dict.fromkeys(("return", "abs_return", "negative_return", "roc"), slow_return)
    by_kind |= {"macd": slow_macd, "bollinger": slow_bollinger, "rsi": slow_rsi}
    by_kind |= dict.fromkeys(("change", "level_to_change_ratio", "steadiness"), slow_change)
    if spec["kind"] in SLOW_BARS:
        return SLOW_BARS[spec["kind"]](columns, i, *spec["window_steps"])
    return by_kind.get(spec["kind"], slow_window)(spec, columns.get(spec.get("column")), i, t)


def slow_series(name):
    bits = "".join(f"{byte:08b}" for byte in hashlib.blake2b(name.encode(), digest_size=6).digest())
    return {"series_key_high": float(int(bits[:24], 2)), "series_key_low": float(int(bits[24:], 2))}


def slow_calendar(spec, _values, _i, t):
    parts = {
        "minute": t.minute,
        "hour": t.hour,
        "weekday": t.weekday(),
        "day": t.day,
        "day_of_year": t.timetuple().tm_yday,
    }
    parts |= {"week": t.isocalendar().week, "month": t.month, "quarter": (t.month + 2) // 3}
    return {f"calendar_{p}": parts[p] for p in spec["parts"]}


def slow_return(spec, values, i, _t):
    found = {}
    for k in spec["steps"]:
        now, before = values[i], at(values, i - k)
        r = None if now is None or before is None else math.log1p((now - before) / before)
        found[f"close_{spec['kind']}_{k}"] = (
            r
            if r is None
            else {"return": r, "abs_return": abs(r), "negative_return": min(r, 0.0), "roc": math.expm1(r)}[
                spec["kind"]
            ]
        )
    return found


def slow_change(spec, values, i, _t):
    found, w = {}, spec["window_steps"]
    for k in spec["steps"]:
        moved = [
            None if None in (a := at(values, i - j), b := at(values, i - j - k)) else abs(a - b)
            for j in range(w)
        ]
        there, level = [m for m in moved if m is not None], window(values, i, w)
        change = statistics.fmean(there) if 2 * len(there) >= w else None
        if spec["kind"] != "change":
            change = abs(statistics.fmean(level)) / change if change and level else None
        found[f"{spec['column']}_{spec['kind']}_{k}_{w}"] = change
    return found


def slow_ewm(spec, values, i, _t):
    return {f"z_ewm_{span}": smooth(values, i, 1 - 2 / (span + 1), 4 * span) for span in spec["span_steps"]}


def slow_window(spec, values, i, _t):
    found = {}
    for w in spec["window_steps"]:
        there = window(values, i, w)
        name = f"{spec['column']}_{spec['kind']}_{w}" + (
            f"_{spec['q']:g}" if spec["kind"] == "quantile" else ""
        )
        compute = {
            "mean": statistics.fmean,
            "min": min,
            "max": max,
            "std": statistics.stdev,
            "quantile": lambda v: between(sorted(v), spec["q"]),
        }
        compute |= {
            "zscore": lambda v: standing(values[i], v),
            "drawdown": lambda v: None if values[i] is None else values[i] / max(v) - 1,
        }
        found[name] = (
            compute[spec["kind"]](there) if len(there) > (spec["kind"] in {"std", "zscore"}) else None
        )
    return found


@law
@given(feeds())
def test_every_kind_equals_the_slow_oracle(feed):
    rows, about = feed
    table, slow_rows = build(rows, about), oracle(rows, about, PARAMS)
    FEATURES.check(table)
    assert {(r["series_id"], r["event_time"]) for r in table.iter_rows(named=True)} == set(slow_rows)
    for row in table.iter_rows(named=True):
        expected = slow_rows[row["series_id"], row["event_time"]]
        assert set(expected) == set(table.columns[6:])
        for name, value in expected.items():
            got = row[name]
            assert (got is None) == (value is None), (name, got, value)
            assert value is None or got == pytest.approx(
                value, rel=1.3e-7, abs=next((e for part, e in KNOWN_TO.items() if part in name), 1e-13)
            ), name


@pytest.mark.parametrize("check", FEATURE_CHECKS, ids=lambda check: check.__name__)
@law
@given(feeds(), st.integers(0, 2**32))
def test_every_kind_keeps_the_law(check, feed, seed):
    check(FeatureSubject(PARAMS), *feed, np.random.default_rng(seed))


@law
@given(feeds())
def test_a_name_fixes_its_computation_whatever_stands_beside_it(feed):
    rows, about = feed
    together = build(rows, about)
    for params in ONE_BY_ONE:
        alone = build(rows, about, params)
        assert_frame_equal(alone, together.select(alone.columns), check_exact=True)


@law
@given(feeds(), st.data())
def test_of_several_vintages_the_latest_given_counts(feed, data):
    rows, about = feed
    picked = data.draw(st.integers(0, rows.height - 1))
    corrected = rows[picked].with_columns(
        pl.col("known_at") + timedelta(days=3), *((pl.col(c) * 1.01) for c in BARS)
    )
    both = SERIES.conform(pl.concat([rows, corrected]))
    replaced = pl.concat([rows[:picked], corrected, rows[picked + 1 :]])
    assert_frame_equal(build(both, about), build(replaced, about), check_exact=True)
    before = select_as_of(both, rows["known_at"][picked])
    assert_frame_equal(
        build(before, about),
        build(rows.filter(pl.col("known_at") <= rows["known_at"][picked]), about),
        check_exact=True,
    )


@settings(law, max_examples=12)
@given(feeds(n_series=2), st.integers(0, 2**32))
def test_an_origin_sees_what_was_known_at_its_cutoff_late_rows_and_corrections_included(feed, seed):
    rows, about = feed
    rng = np.random.default_rng(seed)
    rows = rows.with_columns(
        pl.col("known_at")
        + pl.duration(hours=pl.Series(rng.integers(1, 60, rows.height) * (rng.random(rows.height) < 0.1)))
    )
    corrected = rows.filter(pl.Series(rng.random(rows.height) < 0.1)).with_columns(
        pl.col("known_at") + timedelta(hours=31), *(pl.col(c) * 1.01 for c in BARS)
    )
    rows = SERIES.conform(pl.concat([rows, corrected]))
    calendar = build_calendar(about)
    table = FEATURES.check(build_features_as_known(rows, about, PARAMS, calendar))
    newest = build(rows, about)
    assert_frame_equal(table.select(newest.columns[:6]), newest.select(newest.columns[:6]))
    for row in table.iter_rows(named=True):
        own = rows.filter(pl.col("series_id") == row["series_id"])
        then = select_as_of(own, calendar.get_cutoff(row["event_time"]))
        seen = build(then, about, last_step=row["event_time"])
        expected = seen.row(-1, named=True) if seen.height else dict.fromkeys(newest.columns)
        names = [n for n in newest.columns[6:] if seen.height or not n.startswith(ROW_COLUMNS)]
        assert {n: row[n] for n in names} == {n: expected[n] for n in names}, row["event_time"]


@law
@given(feeds())
def test_the_grid_holds_every_step_and_gaps_are_marked(feed):
    rows, about = feed
    table = build(rows, about)
    received = table.filter(~pl.col("is_gap"))
    assert_frame_equal(received.select(SERIES.key), rows.select(SERIES.key))
    gaps = table.filter("is_gap")
    assert gaps["y"].is_null().all()
    assert gaps["z"].is_null().all()
    for (_,), own in table.group_by("series_id"):
        assert (
            own["event_time"].to_list()
            == build_calendar(about).grid(own["event_time"].min(), own["event_time"].max()).to_list()
        )


@law
@given(feeds())
def test_the_schema_names_the_tables_columns_and_roles(feed):
    rows, about = feed
    schema = build_feature_schema(about, PARAMS)
    assert schema.names == build(rows, about).columns[6:]
    roles = {c.name: c.role for c in schema.columns}
    assert [roles[n] for n in ("z_last", "z_lag_1", "z_std_7", "close_std_6", "close_return_1")] == [
        "level",
        "level",
        "spread",
        "free",
        "free",
    ]
    assert (schema.last, schema.seasonal, schema.scale) == (
        "z_last",
        ("z_lag_2", "z_lag_1", "z_last", "z_lag_2"),
        "z_std_7",
    )
