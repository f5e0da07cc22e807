"""Concept drift: a loss that the inputs explain is none, a changed relation is one."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from small_release import small_about

from tasks.core.calendar import build_calendar
from tasks.monitor.concept import compute_ratios, select_inputs
from tasks.monitor.service_level import build_watched_outcomes, describe_alarm, watch_levels

START, N_GATE, N_DAYS, LAG = datetime(2024, 1, 1, tzinfo=UTC), 250, 250, 5
ABOUT = small_about(quantiles=[0.1, 0.5, 0.9])
TIMES = pl.Series([START + timedelta(days=t) for t in range(N_GATE + N_DAYS)], dtype=pl.Datetime("us", "UTC"))


def watch(seed, level, noise):
    """A loss that is proportional to the input of five days before; each step ahead has its own."""
    rng = np.random.default_rng(seed)
    x = np.exp(level + 0.5 * rng.normal(size=len(TIMES)))
    scale = noise * np.concatenate([x[:LAG], x[:-LAG]])
    parts = [
        pl.DataFrame({"series_id": "s", "step": step, "event_time": TIMES, "y": 0.0, "is_seen": False})
        .with_columns(loss=pl.Series(scale * rng.chisquare(4, len(TIMES))))
        for step in range(1, 6)
    ]  # fmt: skip
    is_reference = build_calendar(ABOUT).nominal_known_at() <= START + timedelta(days=N_GATE)
    watched = build_watched_outcomes(pl.concat(parts), ABOUT, is_reference, TIMES)
    streams = pl.DataFrame({"event_time": TIMES, "s:x": x, "s:c": 3.0, "s:text": "a"})
    inputs = select_inputs(streams, watched.times, LAG).drop("event_time").to_numpy()
    return watch_levels(watched, ABOUT, 0.5, 0.05 / 30, inputs)[:2]


def test_an_input_that_makes_it_hard_raises_the_loss_and_not_what_is_left_over():
    level, same = np.zeros(len(TIMES)), np.ones(len(TIMES))
    level[N_GATE + 50 :] = 0.7
    noise = np.where(level > 0, 2.0, 1.0)
    found = [watch(seed, level, same) for seed in range(10)]
    assert all(loss.direction == "high" for loss, _ in found)
    assert sum(concept.direction is not None for _, concept in found) <= 2
    changed = [watch(seed, 0 * level, noise) for seed in range(10)]
    assert all(concept.direction == "high" for _, concept in changed)
    concept = changed[0][1]
    assert (concept.figure, concept.is_degraded) == ("concept", True)
    assert concept.normal == pytest.approx(1.0, abs=0.2)
    assert concept.points[-1].value > 1.4
    assert "the loss is high for these inputs since 2024" in describe_alarm(concept)


def test_both_figures_of_the_loss_keep_to_one_budget():
    same = np.ones(len(TIMES))
    found = [watch(seed, 0 * same, same) for seed in range(30)]
    n = sum(any(level.alarm_at is not None for level in levels) for levels in found)
    assert n / 30 / N_DAYS * 30 <= 0.05


def test_inputs_that_are_missing_or_constant_switch_nothing_off():
    rng = np.random.default_rng(1)
    loss = np.where(np.arange(100) < 70, 1.0, 3.0) * rng.chisquare(20, 100)
    inputs = rng.normal(size=(100, 4))
    inputs[:, 0], inputs[80:, 1], inputs[5, 2], inputs[90, 3] = 1.0, np.nan, np.nan, 1e12
    ratios = compute_ratios(loss, inputs, 50)
    assert np.isfinite(ratios).all()
    assert np.median(ratios[:70]) == pytest.approx(1.0, abs=0.1)
    assert np.median(ratios[70:]) > 2
    assert compute_ratios(loss, inputs[:, :0], 50) == pytest.approx(
        loss / np.exp(np.log(loss[:50]).mean()), rel=0.1
    )
