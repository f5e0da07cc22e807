"""A checkout's folder with a small history, on which the whole loop is simulated in seconds."""

from pathlib import Path

import polars as pl
import yaml
from small_release import SMALL_ABOUT, SMALL_FEATURES, small_rows

from tasks.core.frames import SERIES
from tasks.edges.artifacts import write_frame
from tasks.edges.params import STAGES

MODELS = {"last_value": {}, "window_mean": {"window_steps": 14}, "ridge": {}}
SECTIONS = {
    "train": {
        "n_cutoffs": 80,
        "stride_steps": 1,
        "refit_every_cutoffs": 40,
        "min_train_steps": 120,
        "embargo_steps": 0,
    },
    "ensemble": {"prune_above_frac": 0.1, "shrink_frac": 0.25, "residuals": 100, "adapt_rate": 0.02},
    "promote": {"gate_steps": 60, "min_gate_rows": 30, "alpha": 0.05, "min_gain_frac": 0.005},
    "monitor": {"min_rows": 20},
    "retrain": {"max_age_steps": 60, "max_error_ratio": 1.25, "min_coverage_frac": 0.7, "cooldown_steps": 15},
}


def build_simulated_root(folder: Path, rows: pl.DataFrame | None = None, **sections) -> Path:
    """A root whose clean rows are a history of two series; *sections* replace those of SECTIONS."""
    entry = {
        "about": SMALL_ABOUT,
        "models": MODELS,
        **{stage: {} for stage in STAGES},
        "features": SMALL_FEATURES,
    }
    document = {"dataset": "small", "models": list(MODELS), **SECTIONS, **sections}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(
        yaml.safe_dump({**document, "datasets": {"small": entry}}, sort_keys=False)
    )
    history = small_rows(420, seed=3) if rows is None else rows
    write_frame(folder / "data/clean/rows.parquet", history, SERIES)
    return folder
