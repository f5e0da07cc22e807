"""The rows that stand for an unknown feature, and other parts of every explanation."""

import numpy as np
import polars as pl

from tasks.core.errors import StageError
from tasks.core.schema import SERIES_KEY, FeatureSchema
from tasks.features import build_features, find_newest_step
from tasks.release import Release
from tasks.release.outputs import list_member_outputs, run_outputs

MAX_GAP_SD = 1e-4  # base + parts may miss z_hat by this many sd of z: the graphs compute in float32
SEED = 1
N_PROBES = 10  # rows that, with the background, show which columns are read


def build_table(release: Release, rows: pl.DataFrame) -> pl.DataFrame:
    """Features of *rows* up to the newest step, of which at least one row can be forecast."""
    last_step = find_newest_step(rows, release.about, release.calendar)
    table = build_features(rows, release.about, release.features, release.calendar, last_step=last_step)
    if table[release.schema.last].is_null().all():
        raise StageError(
            f"explain: no row of {table['series_id'].n_unique()} series has a value in its last steps, so"
            " nothing can be forecast. Look into data/clean."
        )
    return table


def select_sample(table: pl.DataFrame, n: int, rng: np.random.Generator) -> pl.DataFrame:
    """*n* rows at random, in the table's order."""
    return table[np.sort(rng.choice(table.height, size=min(n, table.height), replace=False))]


def build_x(release: Release, table: pl.DataFrame) -> np.ndarray:
    """The rows of *table* as the members read them, (n, F)."""
    return table.select(pl.col(release.schema.names).fill_null(float("nan"))).to_numpy()


def run_members(release: Release, x: np.ndarray) -> np.ndarray:
    """(n, M * H) of the combined members, side by side."""
    return np.concatenate(run_outputs(release, x, list_member_outputs(release)), axis=1)


def find_tied_columns(schema: FeatureSchema) -> dict[int, int]:
    """{follower: leader} of `compute_shapley`: the two halves of a series' key."""
    high, low = SERIES_KEY
    return {schema.index(low): schema.index(high)} if low in schema.names else {}
