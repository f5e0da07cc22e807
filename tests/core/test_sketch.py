"""The saved reference: counts, and distances that are those of a slow twin."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_release import small_rows

from tasks.core.sketch import (
    build_reference,
    build_sketch,
    compare_values,
    compute_phases,
    parse_reference,
)


@given(st.lists(st.floats(width=32) | st.just(math.nan), max_size=60))
def test_a_sketch_counts_the_values_of_each_phase_that_are_nearly_the_same(values):
    values, phases = np.array(values, float), np.arange(len(values)) % 7
    sketch = build_sketch(values, phases)
    assert sorted(zip(sketch.phase, sketch.key, strict=True)) == list(
        zip(sketch.phase, sketch.key, strict=True)
    )
    for phase in range(7):
        is_known = np.isfinite(values) & (phases == phase)
        assert sketch.n[sketch.phase == phase].sum() == is_known.sum()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50))
def test_values_that_were_seen_alone_are_at_no_distance(values):
    values, phases = np.array(values), np.zeros(len(values), int)
    shift = compare_values(build_sketch(values, phases), values, phases)
    assert (shift.psi, shift.js, shift.wasserstein) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 1.0), (2.0, 1.0), (0.0, 3.0)])
def test_the_distances_are_those_of_a_slow_twin(shift, scale):
    rng = np.random.default_rng(5)
    past, now = rng.normal(size=5000), shift + scale * rng.normal(size=3000)
    found = compare_values(build_sketch(past, np.zeros(5000, int)), now, np.zeros(3000, int))
    edges = [-math.inf, *np.quantile(past, np.arange(1, 10) / 10), math.inf]
    p, q = (np.histogram(v, edges)[0] / len(v) for v in (past, now))
    middle = (p + q) / 2
    js = math.sqrt(
        sum(s * math.log2(s / m) / 2 for side in (p, q) for s, m in zip(side, middle, strict=True) if s)
    )
    ordered = np.sort(past), np.sort(now)
    levels = (np.arange(200) + 0.5) / 200
    apart = np.mean(np.abs(np.quantile(ordered[0], levels) - np.quantile(ordered[1], levels))) / past.std()
    assert found.psi == pytest.approx(float(((q - p) * np.log(q / p)).sum()), rel=0.05, abs=0.003)
    assert found.js == pytest.approx(js, rel=0.05, abs=0.005)
    assert found.wasserstein == pytest.approx(apart, rel=0.05, abs=0.01)


def test_only_the_same_hours_and_weekdays_are_compared():
    """A Monday against a past of a week is no shift, although its values are half of the range."""
    hours = pl.datetime_range(pl.date(2024, 1, 1), pl.date(2024, 3, 4), "1h", time_zone="UTC", eager=True)
    phases = compute_phases(hours)
    assert len(set(phases)) == 168
    values = phases + np.random.default_rng(1).normal(size=len(phases))
    sketch, monday = build_sketch(values, phases), phases < 24
    alike = compare_values(sketch, values[monday], phases[monday])
    assert alike.wasserstein < 0.02
    assert alike.psi < 0.01
    apart = compare_values(sketch, values[monday] + 12, phases[monday])
    assert apart.wasserstein > 1
    assert (
        compare_values(build_sketch(values[~monday], phases[~monday]), values[monday], phases[monday]) is None
    )


def test_categories_are_compared_one_by_one():
    codes, phases = np.array([0.0, 1.0, 2.0] * 40), np.zeros(120, int)
    sketch = build_sketch(codes, phases)
    assert compare_values(sketch, codes, phases, is_category=True).psi == 0
    one, other = (
        compare_values(sketch, np.full(120, code), phases, is_category=True).js for code in (2.0, 3.0)
    )
    assert 0 < one < other == 1


def test_a_reference_is_read_as_it_was_built(tmp_path):
    rows = small_rows(200)
    build_reference(rows, ["load"]).write_parquet(tmp_path / "r.parquet")
    found = parse_reference(pl.read_parquet(tmp_path / "r.parquet"))
    assert list(found) == ["north:load", "south:load"]
    north = rows.filter(pl.col("series_id") == "north")
    own = build_sketch(north["load"].to_numpy(), compute_phases(north["event_time"]))
    assert all(np.array_equal(a, b) for a, b in zip(found["north:load"], own, strict=True))
