"""The numbers of a small fixed chain, so that a rename or a move can show that it changed none of
them.

Real bars through features, five models and the ensemble, in this process. Numbers are held to a
part in 100,000, since another processor's linear algebra rounds differently; `-s` prints the sha256
of their bytes, which two commits on one machine must share. A change that is meant to change
numbers writes the new ones here (`-s` prints them, too) and says in CHANGELOG.md which fits change.
"""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from homes import at_home
from small_checkout import FEATURES
from small_release import build_small_release

from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.core.dataset import Dataset
from tasks.core.panel import build_panel
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.stage import ENSEMBLE, build_ensemble
from tasks.features import FeatureParams, build_feature_schema, build_features
from tasks.forecasters import get_forecaster_class
from tasks.ingest.params import ArchSource
from tasks.ingest.stage import read_configured_source
from tasks.release.manifest import list_covered_files
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

ABOUT = About(
    description="The default series, newest 1,200 days.",
    every="1d",
    calendar="weekdays",
    horizon_steps=5,
    season_steps=5,
    primary_score="qlike",
    target={"column": "gk_vol", "unit": "1", "derive": "garman_klass", "transform": "log"},
    quantiles=[0.1, 0.5, 0.9],
)
MODELS = {
    "last_value": {},
    "window_mean": {"window_steps": 22},
    "har": {"windows_steps": [1, 5, 22]},
    "ridge": {},
    "lightgbm": {"n_trees": 20},
}
WALK = TrainParams(n_cutoffs=60, stride_steps=5, refit_every_cutoffs=30, min_train_steps=300)
GATE_STEPS = 100
PINNED = {  # by `summarize`; z_hat of the models is in logs, so is what the ensemble issues
    "last_value": [-5.0998184, 0.71192402, -4.6546640],
    "window_mean": [-5.1701437, 0.50663947, -4.2249780],
    "har": [-5.1716844, 0.44044499, -4.4295235],
    "ridge": [-5.1738065, 0.44758909, -4.4597626],
    "lightgbm": [-5.1635771, 0.44957266, -4.4720707],
    "ensemble": [-4.9260332, 0.50309238, -4.2419386],
    "quantiles": [-5.1285994, 0.74761096, -4.9750999],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(name -> array, name -> fit).

    Arrays: each model's z_hat over walk and gate, the ensemble's points and quantiles as issued.
    Fits: the shipped ones.
    """
    with at_home(tmp_path_factory.mktemp("home"), TIDEMILL_WORKERS="1", TIDEMILL_KEEP_FITS_MB="0"):
        rows = read_configured_source(ArchSource(kind="arch"), ABOUT, Path(), report=lambda _: None).rows
        rows = rows.filter(pl.col("event_time").rank("dense", descending=True) <= 1200)
        params, calendar = (
            FeatureParams.model_validate(FEATURES),
            build_calendar(ABOUT, reach=(rows["event_time"].min(), rows["event_time"].max())),
        )
        table, schema = build_features(rows, ABOUT, params, calendar), build_feature_schema(ABOUT, params)
        data = TrainingData(table, Dataset(ABOUT, calendar, schema), GATE_STEPS)
        trained = {m: fit_model(m, data, WALK, own, lambda _: None) for m, own in MODELS.items()}
        walk, gate = ({m: getattr(t, part) for m, t in trained.items()} for part in ("forecasts", "gate"))
        aligned = align_forecasts(walk, gate, build_panel(table, data.dataset), WALK.stride_steps)
        combined = build_ensemble(
            aligned,
            EnsembleParams(prune_above_frac=0.1, shrink_frac=0.25, residuals=500, adapt_rate=0.02),
        )
    issued = combined.candidates[ENSEMBLE].issued
    forecasts = {m: combined.candidates[m].z_hat for m in MODELS} | {
        "ensemble": issued.point,
        "quantiles": issued.further,
    }
    return forecasts, {m: t.fit for m, t in trained.items()}


def summarize(array):
    """Mean and sd of what is known, and the newest number of the first series one step ahead."""
    return [float(np.nanmean(array)), float(np.nanstd(array)), float(array[-1, 0, 0].flat[0])]


def test_the_numbers_of_a_small_fixed_chain_are_as_before(made):
    forecasts, _ = made
    found = {name: summarize(array) for name, array in forecasts.items()}
    digest = hashlib.sha256(b"".join(array.tobytes() for array in forecasts.values())).hexdigest()
    print(
        f"\nsha256 of all forecasts on this machine: {digest}",
        *(f"    {json.dumps(name)}: {numbers}," for name, numbers in found.items()),
        sep="\n",
    )
    assert found.keys() == PINNED.keys()
    for name, numbers in PINNED.items():
        np.testing.assert_allclose(found[name], numbers, rtol=1e-5, err_msg=name)


def test_no_file_that_a_release_digest_covers_names_a_module_or_a_forecaster_class_of_ours(made, tmp_path):
    """So that a module or a class may move or be renamed, and every release keeps its digest."""
    build_small_release(tmp_path)
    for name, fit in made[1].items():
        fit.to_onnx(tmp_path / "members" / f"{name}.onnx")
    classes = "|".join(sorted({get_forecaster_class(model).__name__ for model in MODELS}))
    ours = re.compile(rf"\b(?:tasks|flows|deployments)[./]\w+|\b(?:{classes})\b".encode())
    paths = [tmp_path / name for name in list_covered_files(tmp_path)]
    assert len(paths) > len(MODELS)
    named = {path.name: ours.findall(path.read_bytes()) for path in paths}
    assert not any(named.values()), named
