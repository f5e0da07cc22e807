"""No model learns from a table that leaks, from one that nobody looked at, or from rows that its
cutoff did not know."""

import sys
from dataclasses import replace

import leak_runs as runs
import numpy as np
import polars as pl
import pytest
from panels import feature_table, small_dataset
from small_checkout import small_checkout

from tasks.core.errors import LeakError
from tasks.core.folds import WalkForward, build_folds
from tasks.core.panel import build_panel
from tasks.train.overlap import check_overlap, find_overlap

NEXT = "import numpy as np\ndef following(values):\n    return np.append(values[1:], np.nan)\n"
PLANTED = {"kind": "function", "of": "planted:following", "column": "z", "lookback_steps": 0}
WALK = WalkForward(n_cutoffs=40, stride_steps=2, refit_every_cutoffs=10, min_train_steps=100, embargo_steps=4)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return small_checkout(tmp_path_factory.mktemp("leaks"))


def stage(checkout, *arguments, code=0):
    return checkout.run(sys.executable, "-m", *arguments, code=code)


def test_train_refuses_what_the_gate_found_by_name(checkout):
    runs.root_of(checkout.root, runs.loads(), [PLANTED], NEXT)
    assert "leak (look_ahead): 'z_following_0'" in stage(checkout, "tasks.features").stdout
    done = stage(checkout, "tasks.train", "ridge", code=2)
    assert done.stderr.startswith("LeakError: train ridge: the leak gate has")
    assert "'z_following_0' of series 'north' at the cutoff" in done.stderr
    assert not (checkout.root / "models/fits").exists()


def test_train_takes_a_clean_table_and_no_other_in_its_place(checkout):
    runs.root_of(checkout.root, runs.loads(), [{"kind": "lag", "column": "z", "steps": [1]}])
    assert "0 leaks found" in stage(checkout, "tasks.features").stdout
    stage(checkout, "tasks.train", "ridge")
    path = checkout.root / "data/features/table.parquet"
    pl.read_parquet(path).with_columns(pl.col("z_lag_1") + 1).write_parquet(path)
    assert (
        "LeakError: train ridge: the leak gate's verdict is about table"
        in stage(checkout, "tasks.train", "ridge", code=2).stderr
    )


@pytest.fixture(scope="module")
def late():
    """Every seventh value is known six steps later than the others."""
    table = feature_table()
    return table.with_columns(
        known_at=pl.when(pl.Series(np.arange(table.height) % 7 == 3))
        .then(pl.col("known_at").dt.offset_by("6d"))
        .otherwise("known_at")
    )


def test_the_walks_own_pairs_are_all_known_by_their_cutoff(late):
    panel = build_panel(late, small_dataset())
    folds = build_folds(len(panel.event_time), len(panel.event_time) - 31, 3, WALK)
    assert find_overlap(late, panel, folds, WALK) is None


def test_a_walk_that_forgets_when_values_were_known_or_its_embargo_is_refused(late):
    panel = build_panel(late, small_dataset())
    folds = build_folds(len(panel.event_time), len(panel.event_time) - 31, 3, WALK)
    nominal = np.where(
        panel.known_pos < len(panel.event_time), np.arange(len(panel.event_time))[:, None], panel.known_pos
    )
    with pytest.raises(
        LeakError,
        match=(
            r"The fold of the cutoff .* would learn from series 's[01]', origin .*, step 1: its value of .*"
            r" was known at .*, after the cutoff"
        ),
    ):
        check_overlap(late, replace(panel, known_pos=nominal), folds, WALK)
    hasty = replace(panel, known_pos=np.maximum(panel.known_pos - WALK.embargo_steps, 0))
    assert find_overlap(late, hasty, folds, WALK).rule == "overlap"
