"""Releases of a small dataset, and its rows as they come after a rollout has begun."""

from datetime import timedelta
from pathlib import Path

import polars as pl
from servers import DATASET
from small_release import START, build_biased_release, build_small_release, small_rows

ROWS = small_rows(700)
BEGUN = START + timedelta(days=500)


def select_known(day: int) -> pl.DataFrame:
    """The rows of the first *day* days."""
    return ROWS.filter(pl.col("known_at") <= START + timedelta(days=day))


def build_rollout_releases(folder: Path) -> Path:
    """`plain`, `good`, which is better, and `biased`: `plain` with a constant bias that the errors
    it has kept do not show. They know the rows until BEGUN."""
    rows = select_known(500)
    for name, member in (("plain", "last_value"), ("good", "ridge")):
        build_small_release(folder / name, rows, 60, weights={member: 1.0}, model=name, dataset=DATASET)
    build_biased_release(folder / "biased", rows, dataset=DATASET)
    return folder
