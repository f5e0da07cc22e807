"""Laws of the panel: no pair of origin and step is learned before it was known."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.dataset import Dataset
from tasks.core.folds import WalkForward
from tasks.core.frames import FEATURES, VINTAGES
from tasks.core.panel import build_panel
from tasks.core.schema import FeatureColumn, FeatureSchema

START = datetime(2024, 1, 1, tzinfo=UTC)
CALENDAR = Calendar("continuous", "1h", publish_delay_s=600)
HORIZON = 3
SCHEMA = FeatureSchema(
    columns=(
        FeatureColumn(name="z_last", role="level", lookback_steps=2),
        FeatureColumn(name="calendar_hour", role="free", lookback_steps=0),
    ),
    last="z_last",
    horizon_steps=HORIZON,
    season_steps=1,
)
DATASET = Dataset(
    About(
        description="a test",
        every="1h",
        publish_delay_s=600,
        horizon_steps=HORIZON,
        target={"column": "y", "unit": "1"},
    ),
    CALENDAR,
    SCHEMA,
)
law = settings(max_examples=40, deadline=None)


def walk_of(**changes):
    return WalkForward(
        **{"n_cutoffs": 5, "stride_steps": 1, "refit_every_cutoffs": 2, "min_train_steps": 4} | changes
    )


@st.composite
def tables(draw):
    """FEATURES of ragged series with gaps; z names its own place (100 x series + position); some
    values were known late."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    frames = []
    for k in range(draw(st.integers(1, 3))):
        first, n = draw(st.integers(0, 6)), draw(st.integers(1, 30))
        pos = np.arange(first, first + n)
        gap = rng.random(n) < draw(st.sampled_from([0.0, 0.3]))
        late = rng.integers(0, 8, n) * (rng.random(n) < draw(st.sampled_from([0.0, 0.2])))
        z = np.where(gap, np.nan, 100.0 * k + pos)
        frames.append(
            pl.DataFrame({"series_id": f"s{k}", "event_time": [START + timedelta(hours=int(p)) for p in pos]})
            .with_columns(known_at=CALENDAR.nominal_known_at() + pl.duration(hours=pl.Series(late)))
            .with_columns(is_gap=pl.Series(gap), y=pl.Series(z).fill_nan(None), z=pl.Series(z).fill_nan(None))
            .with_columns(
                z_last=pl.col("z").forward_fill(2).cast(pl.Float32),
                calendar_hour=pl.col("event_time").dt.hour().cast(pl.Float32),
            )
        )
    return FEATURES.conform(pl.concat(frames))


@law
@given(tables())
def test_a_panel_holds_the_table_and_nothing_else(table):
    panel = build_panel(table, DATASET)
    assert (
        panel.event_time.to_list()
        == CALENDAR.grid(table["event_time"].min(), table["event_time"].max()).to_list()
    )
    assert panel.x.shape == (*panel.z.shape, 2)
    assert panel.x.dtype == np.float32
    seen = {
        (panel.event_time[int(t)], panel.series_ids[s]): (panel.y[t, s], panel.z[t, s], *panel.x[t, s])
        for t, s in np.ndindex(panel.z.shape)
    }
    for row in table.iter_rows(named=True):
        values = [row["y"], row["z"], row["z_last"], row["calendar_hour"]]
        np.testing.assert_array_equal(
            seen.pop((row["event_time"], row["series_id"])), [np.nan if v is None else v for v in values]
        )
    assert all(np.isnan(values).all() for values in seen.values())
    assert panel.cutoff.to_list() == [CALENDAR.get_cutoff(t) for t in panel.event_time]


@law
@given(tables(), st.data())
def test_no_pair_is_learned_whose_truth_was_unknown_at_the_cutoff(table, data):
    panel = build_panel(table, DATASET)
    at = data.draw(st.integers(0, len(panel.event_time) - 1))
    embargo, window = data.draw(st.integers(0, 4)), data.draw(st.sampled_from([None, 1, 6]))
    x, z = panel.get_training_pairs(at, walk_of(embargo_steps=embargo, window_steps=window))
    allowed = panel.cutoff[at - embargo] if at >= embargo else START - timedelta(days=1)
    known = {
        (r["series_id"], r["event_time"]): r["z"]
        for r in table.iter_rows(named=True)
        if r["z"] is not None and r["known_at"] <= allowed
    }
    expected = []
    for t in range(0 if window is None else max(0, at + 1 - window), at + 1):
        for s, name in enumerate(panel.series_ids):
            ahead = [
                known.get((name, panel.event_time[t] + timedelta(hours=h)), np.nan)
                for h in range(1, HORIZON + 1)
            ]
            if np.isfinite(ahead).any() and np.isfinite(panel.x[t, s, 0]):
                expected.append((panel.x[t, s], ahead))
    assert len(x) == len(z) == len(expected)
    for row_x, row_z, (expected_x, expected_z) in zip(x, z, expected, strict=True):
        np.testing.assert_array_equal(row_x, expected_x)
        np.testing.assert_array_equal(row_z, np.float32(expected_z))


@law
@given(tables(), st.data())
def test_targets_are_the_steps_after_the_origin(table, data):
    panel = build_panel(table, DATASET)
    n_steps = len(panel.event_time)
    start = data.draw(st.integers(0, n_steps))
    stop = data.draw(st.integers(start, n_steps))
    z = panel.get_targets(start, stop)
    assert z.shape == (stop - start, len(panel.series_ids), HORIZON)
    for t, s, h in np.ndindex(z.shape):
        target = start + t + h + 1
        np.testing.assert_equal(
            z[t, s, h], np.float32(panel.z[target, s]) if target < n_steps else np.float32(np.nan)
        )


@law
@given(tables(), st.data())
def test_only_origins_with_a_last_value_are_asked(table, data):
    panel = build_panel(table, DATASET)
    origins = np.array(sorted(data.draw(st.sets(st.integers(0, len(panel.event_time) - 1), min_size=1))))
    x, where = panel.get_inputs(origins)
    assert np.isfinite(x[:, 0]).all()
    assert {tuple(w) for w in where.tolist()} == {
        (t, s)
        for t in origins.tolist()
        for s in range(len(panel.series_ids))
        if np.isfinite(panel.x[t, s, 0])
    }
    for row, (t, s) in zip(x, where, strict=True):
        np.testing.assert_array_equal(row, panel.x[t, s])


def test_a_value_published_late_waits_until_the_cutoff_that_knows_it():
    table = pl.DataFrame(
        {
            "series_id": "a",
            "event_time": [START + timedelta(hours=h) for h in range(10)],
            "is_gap": False,
            "z": [float(h) for h in range(10)],
        }
    )
    known = [
        CALENDAR.get_cutoff(t) + (timedelta(hours=2, minutes=1) if t.hour == 4 else timedelta())
        for t in table["event_time"]
    ]
    table = table.with_columns(
        known_at=pl.Series(known),
        y="z",
        z_last=pl.col("z").cast(pl.Float32),
        calendar_hour=pl.lit(0.0, pl.Float32),
    )
    panel = build_panel(
        FEATURES.conform(table.with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))),
        DATASET,
    )
    assert panel.known_pos[:, 0].tolist() == [0, 1, 2, 3, 7, 5, 6, 7, 8, 9]
    learned = {at: 4.0 in panel.get_training_pairs(at, walk_of())[1] for at in (5, 6, 7)}
    assert learned == {5: False, 6: False, 7: True}


@law
@given(tables(), st.data())
def test_a_pair_has_the_vintage_that_its_cutoff_knew(table, data):
    """The oracle looks through all vintages of a value, one by one."""
    old = []
    for row in data.draw(st.lists(st.sampled_from(table.rows(named=True)), max_size=8)):
        before = row["known_at"] - timedelta(minutes=data.draw(st.integers(1, 400)))
        old.append(
            {
                **{k: row[k] for k in ("series_id", "event_time")},
                "known_at": before,
                "z": data.draw(st.sampled_from([None, -1.0, -2.0])),
            }
        )
    vintages = pl.DataFrame(
        old, schema={c: VINTAGES.columns[c] for c in ("series_id", "event_time", "known_at", "z")}
    ).with_columns(y="z")
    vintages = VINTAGES.conform(vintages.unique(subset=list(VINTAGES.key), keep="first"))
    panel = build_panel(table, DATASET, vintages)
    at, embargo = data.draw(st.integers(0, len(panel.event_time) - 1)), data.draw(st.integers(0, 4))
    seen = panel.get_targets(0, at + 1, at, embargo)
    allowed = panel.cutoff[at - embargo] if at >= embargo else START - timedelta(days=1)
    rows = [
        *table.select("series_id", "event_time", "known_at", "z").iter_rows(),
        *vintages.select("series_id", "event_time", "known_at", "z").iter_rows(),
    ]
    for t, s, h in np.ndindex(seen.shape):
        step = (panel.series_ids[s], panel.event_time[t] + timedelta(hours=h + 1))
        known = max(
            ((known_at, z) for *key, known_at, z in rows if tuple(key) == step and known_at <= allowed),
            key=lambda v: v[0],
            default=(None, None),
        )
        np.testing.assert_equal(seen[t, s, h], np.float32(np.nan if known[1] is None else known[1]))


def test_a_fold_is_a_slice_of_the_panel_and_cannot_be_written():
    n = 30
    table = pl.DataFrame(
        {
            "series_id": "a",
            "event_time": [START + timedelta(hours=h) for h in range(n)],
            "is_gap": False,
            "z": [float(h) for h in range(n)],
        }
    )
    table = table.with_columns(event_time=pl.col("event_time").cast(pl.Datetime("us", "UTC"))).with_columns(
        known_at=CALENDAR.nominal_known_at(),
        y="z",
        z_last=pl.col("z").cast(pl.Float32),
        calendar_hour=pl.lit(0.0, pl.Float32),
    )
    panel = build_panel(FEATURES.conform(table), DATASET)
    x, _ = panel.get_training_pairs(20, walk_of())
    assert np.shares_memory(x, panel.x)
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 0
