"""The feature table beside the laws: errors that help, the grid's edge, price scale, the stage
on disk."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from tasks.core.about import About, Covariates, Target
from tasks.core.calendar import build_calendar
from tasks.core.errors import CalendarError, FeatureInputError
from tasks.core.frames import FEATURES, SERIES
from tasks.core.schema import FeatureSchema
from tasks.edges.artifacts import read_frame, write_frame
from tasks.features import FeatureParams, add_target, build_feature_schema, build_features, build_gap_ledger
from tasks.features import compute as computing
from tasks.features.__main__ import main
from tasks.features.rolling import Past

START = datetime(2024, 1, 1, tzinfo=UTC)
ABOUT = About(description="t", every="1h", target=Target(column="load", unit="MW"), horizon_steps=3)


def rows_of(steps=range(10), series="a", **columns):
    n = len(steps)
    columns = columns or {"load": [float(s) for s in steps]}
    frame = pl.DataFrame(
        {"series_id": [series] * n, "event_time": [START + timedelta(hours=s) for s in steps], **columns}
    )
    return SERIES.conform(frame.with_columns(known_at=pl.col("event_time") + timedelta(hours=1)))


def build(rows, *specs, about=ABOUT, last_step=None, **params):
    return build_features(
        rows,
        about,
        FeatureParams.model_validate({"list": list(specs), **params}),
        build_calendar(about),
        last_step=last_step,
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"kind": "lag", "column": "z", "steps": [0, 3]},
            r"lag of 'z' has \[0\]; a lag looks back at least 1 step",
        ),
        ({"kind": "lag", "column": "z", "steps": []}, "is empty"),
        ({"kind": "std", "column": "z", "window_steps": [1]}, r"std of 'z' has \[1\]"),
        ({"kind": "quantile", "column": "z", "window_steps": [5], "q": 1.0}, "q is between 0 and 1"),
        (
            {"kind": "mean", "column": "laod", "window_steps": [5]},
            r"'laod_mean_5' reads column 'laod', .* Did you mean 'load'",
        ),
        ({"kind": "garman_klass"}, r"'ohlc_garman_klass' reads column 'open'"),
    ],
)
def test_a_feature_that_cannot_be_is_named_with_the_way_out(spec, words):
    with pytest.raises(FeatureInputError, match=words):
        build(rows_of(), spec)


def test_an_unknown_key_or_kind_is_refused():
    for spec in (
        {"kind": "mean", "column": "z", "window_steps": [3], "q": 0.5},
        {"kind": "median", "column": "z"},
    ):
        with pytest.raises(ValueError, match="list"):
            FeatureParams.model_validate({"list": [spec]})


def test_a_scale_must_be_a_std_column_of_z():
    specs = [
        {"kind": "std", "column": "z", "window_steps": [24]},
        {"kind": "mean", "column": "z", "window_steps": [24]},
    ]
    assert (
        build_feature_schema(ABOUT, FeatureParams.model_validate({"list": specs, "scale": "z_std_24"})).scale
        == "z_std_24"
    )
    for scale in ("z_std_42", "z_mean_24"):
        with pytest.raises(FeatureInputError, match=f"`features.scale` is '{scale}'.*z_std_24"):
            build_feature_schema(ABOUT, FeatureParams.model_validate({"list": specs, "scale": scale}))


def test_a_row_beside_the_grid_is_named():
    late = rows_of().with_columns(
        pl.when(pl.col("load") == 4.0)
        .then(pl.col("event_time") + timedelta(minutes=7))
        .otherwise("event_time")
        .alias("event_time")
    )
    with pytest.raises(CalendarError, match=r"'a' has a row at 2024-01-01 04:07:00Z.*\(1 such rows\)"):
        build(late)
    weekend = rows_of(steps=[0, 24, 5 * 24])
    with pytest.raises(CalendarError, match="2024-01-06"):
        build(weekend, about=ABOUT.model_copy(update={"every": "1d", "calendar": "weekdays"}))


def test_a_missing_target_column_names_those_there():
    with pytest.raises(FeatureInputError, match=r"needs column\(s\) \['load'\]; there are \['volume'\]"):
        add_target(rows_of(volume=[1.0] * 10), ABOUT)


def test_a_covariate_may_not_take_the_targets_names():
    with pytest.raises(FeatureInputError, match=r"\['z'\]"):
        add_target(
            rows_of(load=[1.0] * 10, z=[1.0] * 10),
            ABOUT.model_copy(update={"covariates": Covariates(past=("z",))}),
        )
    as_y = ABOUT.model_copy(update={"target": Target(column="y", unit="1")})
    assert add_target(rows_of(y=[2.0] * 10), as_y)["y"].to_list() == [2.0] * 10


def test_the_target_may_be_called_by_its_own_name_and_is_level_when_untransformed():
    specs = [{"kind": "lag", "column": c, "steps": [2]} for c in ("load", "y", "z")]
    table = build(rows_of(), *specs)
    assert table["load_lag_2"].to_list() == table["z_lag_2"].to_list() == table["y_lag_2"].to_list()
    assert {
        c.role for c in build_feature_schema(ABOUT, FeatureParams.model_validate({"list": specs})).columns
    } == {"level"}
    logged = ABOUT.model_copy(update={"target": Target(column="load", unit="MW", transform="log")})
    assert [
        c.role for c in build_feature_schema(logged, FeatureParams.model_validate({"list": specs})).columns
    ] == ["level", "free", "free", "level"]


def test_z_is_null_where_the_transform_is_undefined_but_y_stays():
    table = build(
        rows_of(load=[-1.0, 0.0, 1.0], steps=range(3)),
        about=ABOUT.model_copy(update={"target": Target(column="load", unit="MW", transform="log")}),
    )
    assert (table["y"].to_list(), table["z"].to_list(), table["is_gap"].any()) == (
        [-1.0, 0.0, 1.0],
        [None, None, 0.0],
        False,
    )


def test_the_last_known_value_is_found_within_the_steps_allowed_and_no_further():
    table = build(rows_of(steps=[0, 5]), last_within_steps=3)
    assert table["z_last"].to_list() == [0.0, 0.0, 0.0, 0.0, None, 5.0]
    assert table["is_gap"].sum() == 4


def test_until_lays_a_series_that_stopped_up_to_the_step_asked_for():
    rows = pl.concat([rows_of(steps=range(4)), rows_of(steps=range(6), series="b")])
    table = build(rows, {"kind": "lag", "column": "z", "steps": [2]}, last_step=START + timedelta(hours=7))
    assert table.group_by("series_id", maintain_order=True).len()["len"].to_list() == [8, 8]
    last = table.filter(pl.col("event_time") == START + timedelta(hours=7))
    assert last["is_gap"].all()
    assert last["known_at"].to_list() == [START + timedelta(hours=8)] * 2
    assert last["z_last"].to_list() == [3.0, 5.0]


def test_seasonal_lags_fall_on_the_same_place_of_the_season():
    about = ABOUT.model_copy(update={"season_steps": 4, "horizon_steps": 6})
    table, schema = build(rows_of(steps=range(40)), about=about), build_feature_schema(about, FeatureParams())
    assert schema.names == ["z_last", "z_lag_3", "z_lag_2", "z_lag_1"]
    at_30 = table.row(30, named=True)
    assert [at_30[name] % 4 for name in schema.seasonal] == [(30 + s) % 4 for s in range(1, 7)]


def test_no_rows_make_an_empty_table():
    table = build(rows_of().clear(), {"kind": "lag", "column": "z", "steps": [1]})
    assert FEATURES.check(table).height == 0
    assert table.columns[-2:] == ["z_last", "z_lag_1"]


def test_infinite_values_and_overflow_are_unknown_not_infinite():
    table = build(
        rows_of(load=[1.0, float("inf"), float("nan"), 1e300, 2.0], steps=range(5)),
        {"kind": "std", "column": "z", "window_steps": [2]},
    )
    assert table["z"].to_list() == [1.0, None, None, 1e300, 2.0]
    assert table["z_last"].to_list() == [1.0, 1.0, 1.0, None, 2.0]
    assert table["z_std_2"].to_list() == [None] * 5


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
@pytest.mark.parametrize("start", [0, 1, 777, 40_000])
def test_windows_do_not_remember_what_lay_before_them(scale, start):
    """In float64 and beyond one block: a stretch that starts elsewhere gives the same numbers,
    at price scale with tiny moves too."""
    walk = scale * (1 + 1e-7 * np.random.default_rng(3).standard_normal(50_000).cumsum())
    walk[::13] = np.nan
    whole, part = Past(walk), Past(walk[start:])
    for compute in (
        lambda p: p.mean(673),
        lambda p: p.std(66),
        lambda p: p.minimum(100),
        lambda p: p.maximum(31),
        lambda p: p.quantile(66, 0.9),
        lambda p: p.ewm(40),
        lambda p: p.log_return(24),
    ):
        ours, theirs = compute(whole)[start + 700 :], compute(part)[700:]
        np.testing.assert_allclose(theirs, ours, rtol=1e-9)
    exact = np.nanstd(walk[start + 100 : start + 166], ddof=1)
    assert part.std(66)[165] == pytest.approx(exact, rel=1e-6 if scale == 1.0 else 1e-5)


def test_blocks_leave_no_seam():
    """A series longer than a block, beside short ones: every window equals polars' own over the
    series alone."""
    rng = np.random.default_rng(5)
    rows = pl.concat(
        [
            rows_of(range(n), s, load=rng.standard_normal(n))
            for s, n in (("a", 3), ("b", 40_000), ("c", 90), ("d", 20_000))
        ]
    )
    table = build(
        rows,
        {"kind": "mean", "column": "z", "window_steps": [48]},
        {"kind": "max", "column": "z", "window_steps": [100]},
        {"kind": "lag", "column": "z", "steps": [7, 120]},
    )
    expected = table.select(
        pl.col("z").rolling_mean(48, min_samples=24).over("series_id").cast(pl.Float32).alias("z_mean_48"),
        pl.col("z").rolling_max(100, min_samples=50).over("series_id").cast(pl.Float32).alias("z_max_100"),
        *(pl.col("z").shift(k).over("series_id").cast(pl.Float32).alias(f"z_lag_{k}") for k in (7, 120)),
    )
    for name in expected.columns:
        assert table[name].is_null().equals(expected[name].is_null())
        np.testing.assert_allclose(
            table[name].drop_nulls(), expected[name].drop_nulls(), rtol=1e-5, atol=1e-6
        )


def test_blocks_threads_and_the_short_way_leave_the_bits_as_they_are(monkeypatch):
    """Series with and without holes, at price scale: in small blocks, on one thread, and every
    row by the long way."""
    rng, frames = np.random.default_rng(9), []
    for name, n, holes in (("a", 700, 0.0), ("b", 60, 0.0), ("c", 900, 0.01), ("d", 5, 0.0), ("e", 400, 0.3)):
        bars = {
            c: 1e5 * np.exp(1e-7 * rng.standard_normal(n).cumsum()) + i
            for i, c in enumerate(("low", "open", "close", "high"))
        }
        steps = np.flatnonzero(rng.random(n) >= holes)
        frames.append(
            rows_of(
                steps.tolist(),
                name,
                load=bars["close"][steps],
                volume=rng.random(len(steps)),
                **{c: v[steps] for c, v in bars.items()},
            )
        )
    specs = [
        *(
            {"kind": kind, "column": "z", "window_steps": [7, 24]}
            for kind in ("mean", "std", "min", "max", "zscore", "drawdown", "rsi", "bollinger")
        ),
        *(
            {"kind": kind, "window_steps": [5]}
            for kind in ("atr", "stochastic", "obv_change", "parkinson", "rogers_satchell")
        ),
        {"kind": "macd", "column": "close"},
        {"kind": "ewm", "column": "z", "span_steps": [10]},
        {"kind": "quantile", "column": "z", "window_steps": [24], "q": 0.9},
        {"kind": "lag", "column": "z", "steps": [1, 30]},
    ]
    rows = pl.concat(frames)
    expected = build(rows, *specs)
    for changes in (
        {"_BLOCK_STEPS": 64},
        {"_MAX_GAP_FRAC": -1.0},
        {"_MAX_GAP_FRAC": 1.0},
        {"_BLOCK_STEPS": 64, "_MAX_GAP_FRAC": -1.0},
    ):
        for n_threads in (1, 7):
            with monkeypatch.context() as m:
                m.setattr(pl, "thread_pool_size", lambda n=n_threads: n)
                for name, value in changes.items():
                    m.setattr(computing, name, value)
                assert_frame_equal(build(rows, *specs), expected, check_exact=True)


def test_the_gap_ledger_names_the_longest_run():
    ledger = build_gap_ledger(build(pl.concat([rows_of([0, 3, 4, 8]), rows_of([0, 1], "b")])))
    assert ledger.model_dump() == {
        "a": {
            "n_steps": 9,
            "n_gap_steps": 5,
            "longest_gap": {
                "n_steps": 3,
                "first": START + timedelta(hours=5),
                "last": START + timedelta(hours=7),
            },
        },
        "b": {"n_steps": 2, "n_gap_steps": 0, "longest_gap": None},
    }


def test_the_stage_writes_the_table_its_schema_and_the_gaps(tmp_path, capsys):
    sections = (
        "ingest",
        "validate",
        "train",
        "ensemble",
        "explain",
        "quantize",
        "package",
        "promote",
        "monitor",
        "retrain",
    )
    entry = {
        "about": ABOUT.model_dump(mode="json"),
        "models": {},
        "features": {"list": [{"kind": "lag", "column": "z", "steps": [1]}]},
        **{s: {} for s in sections},
    }
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(
            {"dataset": "d", "models": [], "features": {"last_within_steps": 5}, "datasets": {"d": entry}}
        )
    )
    write_frame(tmp_path / "data/clean/rows.parquet", rows_of([0, 1, 4]), SERIES)
    main(tmp_path)
    table = read_frame(tmp_path / "data/features/table.parquet", FEATURES)
    schema = FeatureSchema.model_validate_json((tmp_path / "data/features/schema.json").read_text())
    assert schema.names == table.columns[6:] == ["z_last", "z_lag_1"]
    assert json.loads((tmp_path / "data/features/gaps.json").read_text())["a"]["n_gap_steps"] == 2
    assert "5 steps of 1 series, 2 of them gaps; 2 columns" in capsys.readouterr().out
    before = {f.name: f.read_bytes() for f in (tmp_path / "data/features").iterdir()}
    main(tmp_path)
    assert {f.name: f.read_bytes() for f in (tmp_path / "data/features").iterdir()} == before
