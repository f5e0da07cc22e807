"""Whatever arrives, and whenever: a forecast follows from what was known at its cutoff, and from
nothing else."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from small_release import build_small_body, cutoff_at, small_rows

from tasks.core.frames import FORECAST, SERIES
from tasks.release import find_absence_reasons, load_unsealed_release, predict_cutoffs
from tasks.release.combine import Recency, Weights

MOVING = Weights(
    members=("last_value", "ridge", "window_mean"),
    table=(((0.2,), (0.6,), (0.2,)),),
    recent=Recency(half_life_cutoffs=5, absolute=True),
).model_dump()


@pytest.fixture(scope="module", params=[(1, {}), (4, {"combination": MOVING})])
def body(request, tmp_path_factory):
    """Its quantiles learn from every cutoff, or from every fourth; so do its weights, where they
    move."""
    folder, (stride, combined) = tmp_path_factory.mktemp("body") / "body", request.param
    return load_unsealed_release(
        build_small_body(
            folder,
            small_rows(n_steps=200),
            stride_steps=stride,
            n_history=80 // stride,
            gate_steps=40,
            **combined,
        )
    )


@given(
    seed=st.integers(0, 10**6),
    asked=st.lists(st.integers(120 * 24, 203 * 24), min_size=2, max_size=4, unique=True),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_a_forecast_follows_from_what_was_known_at_its_cutoff(body, seed, asked):
    rows = _as_they_come(small_rows(n_steps=200), np.random.default_rng(seed))
    cutoffs = [cutoff_at(-1) + timedelta(hours=hours) for hours in sorted(asked)]
    batch = predict_cutoffs(body, rows, cutoffs)
    latest = {}
    for at in cutoffs:
        known = rows.filter(pl.col("known_at") <= at)
        alone = predict_cutoffs(body, known, [at])
        assert set(alone["series_id"]) | set(find_absence_reasons(body, rows, at)) == {"north", "south"}
        assert not set(alone["series_id"]) & set(find_absence_reasons(body, rows, at))
        # Two cutoffs on one step: the later one counts
        latest |= dict.fromkeys(alone["cutoff"].unique(), alone)
    expected = pl.concat([alone.filter(cutoff=cutoff) for cutoff, alone in latest.items()] or [batch.clear()])
    assert_frame_equal(batch, FORECAST.conform(expected), rel_tol=1e-9)
    assert (
        batch.select(
            ((pl.col("q_0.1") <= pl.col("q_0.5")) & (pl.col("q_0.5") <= pl.col("q_0.9"))).all()
        ).item()
        is True
    )


def _as_they_come(rows: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """A tenth missing, a tenth late by up to six days, a tenth corrected later, one series
    silent for a week."""
    n = rows.height
    late = pl.Series(np.where(rng.random(n) < 0.1, rng.integers(1, 6 * 24, n), 0))
    arrived = rows.with_columns(known_at=pl.col("known_at") + pl.duration(hours=late))
    silent = int(rng.integers(120, 190))
    quiet = (pl.col("series_id") == "south") & pl.col("known_at").is_between(
        cutoff_at(silent), cutoff_at(silent + 7)
    )
    arrived = arrived.filter(pl.Series(rng.random(n) > 0.1) & ~quiet)
    corrected = arrived.filter(pl.Series(rng.random(arrived.height) < 0.1))
    corrected = corrected.with_columns(
        known_at=pl.col("known_at") + timedelta(hours=30), load=pl.col("load") * 1.5
    )
    return SERIES.conform(pl.concat([arrived, corrected]))
