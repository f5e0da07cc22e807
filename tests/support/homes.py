"""A home of its own for a test, and a checkout's folder with a sealed challenger, a baseline and
clean rows in it."""

from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
import yaml
from small_release import SMALL_ABOUT, SMALL_FEATURES, build_small_release, small_rows

from tasks.edges.params import STAGES
from tasks.edges.settings import read_settings

PROMOTE = {"gate_steps": 120, "min_gate_rows": 60, "alpha": 0.05, "min_gain_frac": 0.005}
BASELINE = {"last_value": 1.0}


@contextmanager
def at_home(home: Path, **environment: str):
    """This process's settings point to *home* inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TIDEMILL_HOME": str(home), **environment}.items():
            patch.setenv(name, value)
        read_settings.cache_clear()
        yield home
    read_settings.cache_clear()


def small_root(
    folder: Path, rows: pl.DataFrame | None = None, challenger=None, baseline=None, **sections
) -> Path:
    """A root with params.yaml, data/clean and models/release. challenger, baseline: options of
    `build_small_release`; sections: of params.yaml."""
    rows = small_rows(500) if rows is None else rows
    defaults = {
        "promote": PROMOTE,
        "monitor": {"min_rows": 20},
        "retrain": {"max_age_steps": 63, "max_error_ratio": 1.25, "min_coverage_frac": 0.7},
    }
    entry = {
        "about": SMALL_ABOUT,
        "models": {},
        **{stage: {} for stage in STAGES},
        "features": SMALL_FEATURES,
    }
    document = {"dataset": "small", "models": [], **defaults, **sections, "datasets": {"small": entry}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    write_clean(folder, rows)
    put_release(folder, rows, **(challenger or {}))
    build_small_release(
        folder / "models/release/baseline",
        rows=rows,
        **{"gate_steps": 120, "weights": BASELINE, "model": "last_value", **(baseline or {})},
    )
    return folder


def write_clean(root: Path, rows: pl.DataFrame) -> None:
    (root / "data/clean").mkdir(parents=True, exist_ok=True)
    rows.write_parquet(root / "data/clean/rows.parquet")


def put_release(root: Path, rows: pl.DataFrame, **options):
    """Another challenger in models/release."""
    return build_small_release(root / "models/release", rows=rows, **{"gate_steps": 120, **options})
