"""A feed on disk, taken through ingest and the stage `features` as the chain does it: what the
leak gate says of it, or of another table of the same rows."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import yaml
from ingest_runs import fill

from tasks.core.frames import FEATURES, SERIES
from tasks.core.leaks import LeakVerdict
from tasks.edges.artifacts import read_frame, read_json
from tasks.edges.params import STAGES, read_about, read_params
from tasks.features import FeatureParams, build_features
from tasks.features.__main__ import main as features
from tasks.features.functions import resolve_functions
from tasks.features.leaks import find_leaks
from tasks.features.stage import build_feature_set
from tasks.ingest.__main__ import main as ingest

START = datetime(2024, 1, 1, tzinfo=UTC)
HOURS = 700


def loads(n=HOURS, seed=1):
    """CSV frame: two meters, an hour a row, with a day's season, a temperature that helps and a
    plan that is known ahead."""
    rng = np.random.default_rng(seed)
    frames = []
    for name, level in (("north", 50.0), ("south", 400.0)):
        noise, temperature = np.zeros(n), np.zeros(n)
        for t in range(1, n):
            noise[t], temperature[t] = (
                0.8 * noise[t - 1] + rng.normal(),
                0.95 * temperature[t - 1] + rng.normal(),
            )
        hour = np.arange(n)
        plan = (hour // 24 % 7 >= 5).astype(float)
        load = level * (
            1 + 0.2 * np.sin(2 * np.pi * hour / 24) + 0.02 * noise + 0.02 * temperature - 0.1 * plan
        )
        frames.append(
            pl.DataFrame(
                {
                    "time": [START + timedelta(hours=int(h)) for h in hour],
                    "meter": name,
                    "load": load,
                    "temperature": temperature,
                    "plan": plan,
                }
            )
        )
    return pl.concat(frames)


def bars(n=HOURS, seed=2):
    """CSV frame: one market, an hour a bar, a geometric random walk."""
    rng = np.random.default_rng(seed)
    ticks = 0.002 * rng.standard_normal((n, 20))
    close = 100 * np.exp(ticks.sum(axis=1).cumsum())
    open_ = np.concatenate([[100.0], close[:-1]])
    paths = open_[:, None] * np.exp(ticks.cumsum(axis=1))
    times = [START + timedelta(hours=h) for h in range(n)]
    high, low = np.maximum(paths.max(axis=1), open_), np.minimum(paths.min(axis=1), open_)
    return pl.DataFrame(
        {"time": times, "meter": "coin", "open": open_, "high": high, "low": low, "close": close}
    )


def root_of(
    folder: Path, table: pl.DataFrame, listed=(), functions="", target=None, about=None, source=None, **params
) -> Path:
    """A root whose data/clean holds the rows of *table* as ingest reads them, with *listed* in
    `features.list` and *functions* in tasks/extensions/planted.py."""
    values = [c for c in table.columns if c not in {"time", "meter", "known"}]
    read = {
        "kind": "files",
        "format": "csv",
        "layout": "long",
        "time_column": "time",
        "series_column": "meter",
        "value_columns": values,
        **(source or {}),
    }
    is_about = {
        "description": "t",
        "every": "1h",
        "horizon_steps": 3,
        "season_steps": 24,
        "target": target or {"column": "load", "unit": "kW"},
        "covariates": {
            "past": [c for c in ("temperature",) if c in values],
            "known_ahead": [c for c in ("plan",) if c in values],
        },
    }
    entry = {
        "about": {**is_about, **(about or {})},
        "models": {},
        **{stage: {} for stage in STAGES},
        "ingest": {"source": read},
        "features": {"list": list(listed), **params},
    }
    folder.mkdir(parents=True, exist_ok=True)
    entry["train"] = {"n_cutoffs": 40, "stride_steps": 1, "refit_every_cutoffs": 20, "min_train_steps": 200}
    (folder / "params.yaml").write_text(
        yaml.safe_dump(
            {"dataset": "d", "models": [], "promote": {"gate_steps": 60}, "datasets": {"d": entry}}
        )
    )
    fill(folder / "data/source", {"feed.csv": table.write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%z")})
    (folder / "tasks/extensions").mkdir(parents=True, exist_ok=True)
    (folder / "tasks/extensions/planted.py").write_text(functions)
    ingest(folder)
    shutil.rmtree(folder / "data/clean", ignore_errors=True)
    shutil.copytree(folder / "data/raw", folder / "data/clean")  # every row keeps the contract
    return folder


def verdict_of(root: Path) -> LeakVerdict:
    """What the stage writes beside its table."""
    features(root)
    return LeakVerdict.model_validate(read_json(root / "data/features/leaks.json"))


def verdict_on(root: Path, table: pl.DataFrame) -> LeakVerdict:
    """What the gate says of another table of the same rows and features."""
    rows, about, params = inputs(root)
    return find_leaks(
        rows, about, params, FEATURES.check(table), build_feature_set(rows, about, params).calendar
    )


def newest_table(root: Path) -> pl.DataFrame:
    """The table that a stage without vintages would write: every origin sees what is known by
    now."""
    rows, about, params = inputs(root)
    return build_features(rows, about, params, build_feature_set(rows, about, params).calendar)


def inputs(root: Path):
    rows = read_frame(root / "data/clean/rows.parquet", SERIES)
    return (
        rows,
        read_about(root),
        resolve_functions(read_params("features", FeatureParams, root), root / "tasks/extensions"),
    )


def rules(verdict: LeakVerdict) -> set[tuple[str, str]]:
    """(rule, feature) of each finding."""
    return {(finding.rule, finding.feature) for finding in verdict.findings}
