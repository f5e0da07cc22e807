"""The leak gate: what was planted is refused, whatever way it came in; what is honest passes."""

from datetime import timedelta

import leak_plants as plants
import leak_runs as runs
import numpy as np
import polars as pl
import pytest

from tasks.core.errors import LeakError
from tasks.core.leaks import check_leaks, check_verdict_inputs

PLANTED = '''
import numpy as np
import polars as pl


def centred_mean(values):
    return pl.Series(values).rolling_mean(3, center=True)


def full_sample_scaler(values):
    return (values - np.nanmean(values)) / np.nanstd(values)


def shifted_label(values):
    return np.append(values[1:], np.nan)


def daily_high(frame):
    """The day's bar is still open at most of its hours."""
    return frame.select(pl.col("load").max().over(pl.col("event_time").dt.date()))["load"]


def target_encoding(frame):
    return frame.select(pl.col("load").mean().over(pl.col("event_time").dt.hour()))["load"]


def right_closed(frame):
    """Bars of four hours, each labelled by its start and closed at its end: the last hour in a bar is the next one's first."""
    bars = frame.group_by_dynamic("event_time", every="4h", closed="right", label="left").agg(pl.col("load").mean().alias("bar"))
    return frame.join_asof(bars, on="event_time")["bar"]


def tomorrows_temperature(frame):
    return frame["temperature"].shift(-24)


def backfilled(values):
    """Fills a hole from what comes after it."""
    return pl.Series(values).fill_nan(None).fill_null(strategy="backward").shift(-1)
'''

HONEST = '''
import math
import statistics

import numpy as np
import polars as pl


def expanding_mean(values, window=200):
    """Of all that there is, as far as 200 steps."""
    return pl.Series(values).fill_nan(None).rolling_mean(window + 1, min_samples=1)


def smoothed(values):
    """An exponential mean that nobody cuts: what lies 150 steps back has a weight of 1e-7."""
    return pl.Series(values).fill_nan(None).ewm_mean(span=18, ignore_nulls=True)


def rank_in_window(values):
    past = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.full(24, np.nan), values]), 25)
    return (past < past[:, -1:]).sum(axis=1)


def seasonal_difference(values):
    return values - np.concatenate([np.full(168, np.nan), values])[: len(values)]


def hours_since_peak(values):
    past = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.full(48, -np.inf), np.nan_to_num(values, nan=-np.inf)]), 49)
    return 48 - past.argmax(axis=1)


def warm_evening(frame):
    """Two columns and the clock together."""
    return frame.select(pl.when(pl.col("event_time").dt.hour() >= 18).then(pl.col("temperature") * pl.col("load")).otherwise(0.0).alias("x"))["x"]


def left_closed(frame):
    """The last whole bar of four hours before the step."""
    past = pl.col("load")
    return frame.select(pl.coalesce(pl.when(pl.col("event_time").dt.hour() % 4 == k).then(past.rolling_mean(4).shift(k + 1)) for k in range(4)).alias("x"))["x"]


def phase(frame):
    return [math.sin(statistics.fmean([t.hour, t.hour + 1])) for t in frame["event_time"]]
'''


def function(name, lookback_steps=0, *columns):
    reads = {"columns": list(columns)} if columns else {"column": "z"}
    return {"kind": "function", "of": f"planted:{name}", "lookback_steps": lookback_steps, **reads}


@pytest.mark.parametrize(
    ("name", "lookback_steps", "columns"),
    [
        ("centred_mean", 1, ()),
        ("full_sample_scaler", 0, ()),
        ("shifted_label", 0, ()),
        ("daily_high", 23, ("load",)),
        ("target_encoding", 0, ("load",)),
        ("right_closed", 8, ("load",)),
        ("tomorrows_temperature", 0, ("temperature",)),
        ("backfilled", 0, ()),
    ],
)
def test_a_function_that_reads_later_steps_is_named_with_what_it_may_know(
    tmp_path, name, lookback_steps, columns
):
    root = runs.root_of(tmp_path, runs.loads(), [function(name, lookback_steps, *columns)], PLANTED)
    feature = f"{'_'.join(columns or ('z',))}_{name}_{lookback_steps}"
    verdict = runs.verdict_of(root)
    assert ("look_ahead", feature) in runs.rules(verdict)
    found = next(f for f in verdict.findings if f.rule == "look_ahead")
    assert found.seen != found.allowed
    assert found.series_id in {"north", "south"}
    assert found.cutoff in found.says.replace(" ", "T").replace("Z", "+00:00")
    assert {f.feature for f in verdict.findings} == {feature}  # what is honest beside it stays unnamed


HONEST_LIST = [
    {"kind": "lag", "column": "z", "steps": [1, 2, 24, 168]},
    {"kind": "mean", "column": "z", "window_steps": [24]},
    {"kind": "std", "column": "z", "window_steps": [24]},
    {"kind": "quantile", "column": "z", "window_steps": [48], "q": 0.9},
    {"kind": "ewm", "column": "z", "span_steps": [12]},
    {"kind": "return", "column": "load", "steps": [24]},
    {"kind": "calendar", "parts": ["hour", "weekday"]},
    {"kind": "value", "column": "temperature"},
    {"kind": "value", "column": "plan"},
    {"kind": "series"},
    {"kind": "cross", "column": "z", "of": ["mean", "rank"]},
    {"kind": "fourier", "period": "day", "order": 2},
    function("expanding_mean", 200),
    function("smoothed", 150),
    function("rank_in_window", 24),
    function("seasonal_difference", 168),
    function("hours_since_peak", 48),
    function("warm_evening", 0, "temperature", "load"),
    function("left_closed", 8, "load"),
    function("phase", 0, "load"),
]


@pytest.fixture(scope="module")
def late_and_corrected():
    """The loads with a price that is said a day ahead; some rows come hours late, some are
    corrected hours later."""
    table = runs.loads().with_columns(known=pl.col("time") + timedelta(hours=1))
    rng = np.random.default_rng(5)
    late = pl.Series(rng.random(table.height) < 0.006)
    table = table.with_columns(
        known=pl.when(late).then(pl.col("known") + timedelta(hours=5)).otherwise("known")
    )
    corrected = table.filter(pl.Series(rng.random(table.height) < 0.006)).with_columns(
        pl.col("load") * 1.5, pl.col("known") + timedelta(hours=7)
    )
    plan = table.select("time", "meter", "plan", known=pl.col("time") - timedelta(hours=24))
    return pl.concat([table, corrected, plan], how="diagonal")


def test_honest_features_pass_late_rows_corrections_and_what_is_said_ahead_included(
    tmp_path, late_and_corrected
):
    listed = [*HONEST_LIST, {"kind": "ahead", "column": "plan"}]
    for folder, table, of_table in (
        ("on_time", runs.loads(), HONEST_LIST),
        ("late", late_and_corrected, listed),
    ):
        source = {"known_at_column": "known"} if folder == "late" else {}
        verdict = runs.verdict_of(
            runs.root_of(tmp_path / folder, table, of_table, HONEST, source=source, leaks={"n_cutoffs": 16})
        )
        assert verdict.findings == ()
        assert verdict.checks["recomputed"]["n_values"] > 16 * len(of_table)


def test_a_table_that_knows_corrections_before_they_came_is_refused(tmp_path, late_and_corrected):
    """A late row, a correction, a covariate that is filled in afterwards: the table of the
    newest values has them all, the stage's has none."""
    settled = runs.loads().with_columns(known=pl.col("time") + timedelta(hours=1))
    afterwards = pl.concat(
        [settled.with_columns(temperature=None), settled.with_columns(pl.col("known") + timedelta(days=3))],
        how="vertical_relaxed",
    )
    source = {"known_at_column": "known"}
    for folder, table, feature in (
        ("late", late_and_corrected, "z_lag_1"),
        ("afterwards", afterwards, "temperature_value"),
    ):
        listed = [{"kind": "lag", "column": "z", "steps": [1]}, {"kind": "value", "column": "temperature"}]
        root = runs.root_of(tmp_path / folder, table, listed, source=source)
        assert runs.verdict_of(root).findings == ()
        verdict = runs.verdict_on(root, runs.newest_table(root))
        assert ("known_at", feature) in runs.rules(verdict)
    found = next(f for f in verdict.findings if f.feature == feature)
    assert found.allowed is None
    assert "unknown from what was known by then" in found.says


def test_a_bar_that_was_still_open_is_refused_and_its_closed_vintage_mends_it(tmp_path):
    table = runs.bars().with_columns(known=pl.col("time") + timedelta(minutes=20))
    closed = table.with_columns(known=pl.col("time") + timedelta(hours=1))
    for derive in ("garman_klass", "bar_return"):
        target, source = {"column": "made", "unit": "1", "derive": derive}, {"known_at_column": "known"}
        verdict = runs.verdict_of(runs.root_of(tmp_path / derive, table, target=target, source=source))
        assert runs.rules(verdict) == {("known_at", "made")}
        assert "before it was closed" in verdict.findings[0].says
        assert (
            runs.verdict_of(
                runs.root_of(tmp_path / derive, pl.concat([table, closed]), target=target, source=source)
            ).findings
            == ()
        )


@pytest.mark.parametrize("transform", ["none", "log"])
def test_a_column_that_holds_the_future_target_is_refused_and_a_helpful_one_is_not(tmp_path, transform):
    """The source itself is wrong: its `settled` is what the load of the next hour will be, give
    or take a per mille."""
    noise = np.random.default_rng(4).normal(0, 0.001, 2 * runs.HOURS)
    table = runs.loads().with_columns(settled=pl.col("load").shift(-1).over("meter") * (1 + pl.Series(noise)))
    listed = [{"kind": "value", "column": c} for c in ("temperature", "settled")]
    verdict = runs.verdict_of(
        runs.root_of(tmp_path, table, listed, target={"column": "load", "unit": "kW", "transform": transform})
    )
    assert runs.rules(verdict) == {("target_in_features", "settled_value")}
    assert "1 step(s) later" in verdict.findings[0].says


def test_a_return_that_can_be_forecast_is_too_good_until_its_owner_says_otherwise(tmp_path):
    """A column with a fifth of the next hour's return is far from determining it, and far beyond
    what a return can have."""
    table = runs.bars(3000)
    ahead = (table["close"] / table["open"]).log().shift(-1)
    table = table.with_columns(
        flow=ahead + 2 * pl.Series(np.random.default_rng(6).permutation(ahead.fill_null(0.0)))
    )
    target = {"column": "r", "unit": "log return", "derive": "bar_return"}
    honest = runs.verdict_of(
        runs.root_of(tmp_path, table, [{"kind": "lag", "column": "z", "steps": [1, 2, 3]}], target=target)
    )
    assert honest.findings == ()
    assert (honest.checks["too_good"]["max_r2"], honest.checks["too_good"]["max_hit_frac"]) == (0.01, 0.53)
    listed = [{"kind": "value", "column": "flow"}]
    verdict = runs.verdict_of(runs.root_of(tmp_path, table, listed, target=target))
    assert runs.rules(verdict) == {("too_good", "flow_value"), ("leading", "flow_value")}
    assert {f.allowed for f in verdict.findings if f.rule == "too_good"} == {0.01, 0.53}
    allowed = {"leaks": {"max_r2": 0.5, "max_hit_frac": 0.8, "leading": ["flow_value"]}}
    assert runs.verdict_of(runs.root_of(tmp_path, table, listed, target=target, **allowed)).findings == ()


def test_what_moves_slowly_around_zero_is_no_return(tmp_path):
    """The last value is the best naive forecast of it, and its past explains a lot."""
    noise = np.random.default_rng(7).standard_normal(1500)
    slow = np.convolve(noise, 0.95 ** np.arange(60))[:1500]
    table = pl.DataFrame(
        {"time": runs.loads(1500)["time"][:1500], "meter": "one", "load": slow - slow.mean()}
    )
    verdict = runs.verdict_of(runs.root_of(tmp_path, table, [{"kind": "lag", "column": "z", "steps": [1]}]))
    assert verdict.findings == ()
    assert "no bound" in verdict.checks["too_good"]["reason"]


@pytest.mark.parametrize(
    ("n_series", "n_steps", "constant"), [(1, 1, False), (2, 30, False), (150, 4, False), (2, 300, True)]
)
def test_a_feed_that_says_little_gets_no_finding(tmp_path, n_series, n_steps, constant):
    rng = np.random.default_rng(8)
    times = runs.loads(n_steps)["time"][:n_steps]
    values = [np.full(n_steps, 7.0) if constant else rng.standard_normal(n_steps) for _ in range(n_series)]
    table = pl.concat(
        [
            pl.DataFrame({"time": times, "meter": f"m{i:03d}", "load": value, "other": value**2})
            for i, value in enumerate(values)
        ]
    )
    listed = [{"kind": "lag", "column": "z", "steps": [1]}, {"kind": "value", "column": "other"}]
    assert runs.verdict_of(runs.root_of(tmp_path, table, listed, about={"season_steps": 1})).findings == ()


def test_rows_drawn_at_random_betray_a_function_that_the_sample_of_cutoffs_missed(tmp_path):
    """It reads ahead in one hour of the day; of two cutoffs none falls there, of 1,600 random
    pairs enough do."""
    once_a_day = (
        "def once_a_day(frame):\n    x = frame['load']\n    return"
        " x.shift(-1).zip_with(frame['event_time'].dt.hour() < 6, x.shift(1))\n"
    )
    root = runs.root_of(
        tmp_path, runs.loads(), [function("once_a_day", 1, "load")], once_a_day, leaks={"n_cutoffs": 1}
    )
    assert runs.rules(runs.verdict_of(root)) >= {("shuffled_target", "load_once_a_day_1")}


def test_a_function_that_reads_further_back_than_it_declares_is_told_so(tmp_path):
    reads = (
        "import numpy as np\ndef so_far(values):\n    return np.cumsum(np.nan_to_num(values)) / np.arange(1,"
        " len(values) + 1)\n"
    )
    verdict = runs.verdict_of(runs.root_of(tmp_path, runs.loads(), [function("so_far", 24)], reads))
    assert runs.rules(verdict) == {("lookback", "z_so_far_24")}
    assert "the service would give other numbers" in verdict.findings[0].says


def test_a_function_that_is_not_the_same_twice_is_told_so(tmp_path):
    draws = (
        "import numpy as np\nrng = np.random.default_rng()\ndef drawn(values):\n    return values +"
        " rng.normal(size=len(values))\n"
    )
    verdict = runs.verdict_of(runs.root_of(tmp_path, runs.loads(), [function("drawn")], draws))
    assert runs.rules(verdict) == {("not_repeatable", "z_drawn_0")}


def test_the_verdict_is_the_same_twice_and_refuses_by_name(tmp_path):
    root = runs.root_of(tmp_path, runs.loads(), [function("centred_mean", 1)], PLANTED)
    first = runs.verdict_of(root)
    written = (root / "data/features/leaks.json").read_bytes()
    assert runs.verdict_of(root) == first
    assert (root / "data/features/leaks.json").read_bytes() == written
    with pytest.raises(
        LeakError,
        match=(
            r"(?s)train ridge: the leak gate has \d finding.*'z_centred_mean_1' of series 'north' at the"
            r" cutoff"
        ),
    ):
        check_leaks(first, "train ridge")
    check_verdict_inputs(first, "train ridge", schema_hash=first.schema_hash)
    with pytest.raises(LeakError, match=r"about table .* but here is 0000"):
        check_verdict_inputs(first, "train ridge", table="0" * 64)


def test_a_high_level_changes_no_verdict():
    """Features are distances from a centre there; who calls the gate need not know it."""
    y = plants.target(np.random.default_rng(1), "season", 2_000)
    rows = [plants.rows_of({"s": {"load": y + level, "x": y}}, ["load", "x"]) for level in (0.0, 1e9)]
    low, high = (plants.verdict_of(of_level, 12) for of_level in rows)
    assert low.findings == high.findings == ()
