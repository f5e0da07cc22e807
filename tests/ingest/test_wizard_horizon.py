"""A horizon that is too long for the history: what the wizard proposes instead is accepted."""

import re
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wizard_runs import proposed

from tasks.core.errors import SourceError
from tasks.ingest.wizard.decide.budget import plan_budget


def test_the_proposed_horizon_is_accepted_and_the_next_one_is_not(tmp_path):
    start, rng = date(2020, 1, 1), np.random.default_rng(1)
    times = [start + timedelta(days=k) for k in range(1420)]
    path = tmp_path / "days.csv"
    pl.DataFrame({"day": times, "load": rng.normal(100, 5, 1420).round(2)}).write_csv(path)
    with pytest.raises(SourceError, match="The history has 1420 steps") as raised:
        proposed(path, horizon=5000)
    fitting = int(re.search(r"`--horizon (\d+)`", str(raised.value))[1])
    assert fitting < 1420
    assert proposed(path, horizon=fitting).entry["about"]["horizon_steps"] == fitting
    with pytest.raises(SourceError, match=f"--horizon {fitting}"):
        proposed(path, horizon=fitting + 1)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(10, 3_000),
    st.integers(1, 50),
    st.integers(1, 10_000),
    st.sampled_from([1, 7, 24, 168]),
    st.integers(1, 100),
)
def test_both_ways_out_work(n_steps, n_series, horizon, season, lookback):
    try:
        plan_budget(n_steps, n_series, horizon, season, lookback)
    except SourceError as error:
        needed = int(re.search(r"at least (\d+) steps", str(error))[1])
        assert needed > n_steps
        plan_budget(needed, n_series, horizon, season, lookback)
        if shorter := re.search(r"`--horizon (\d+)`", str(error)):
            plan_budget(n_steps, n_series, int(shorter[1]), season, lookback)
        else:
            with pytest.raises(SourceError):
                plan_budget(n_steps, n_series, 1, season, lookback)
