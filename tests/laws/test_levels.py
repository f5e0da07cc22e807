"""Series that are 1e9 higher have forecasts that are 1e9 higher, to a millionth of their spread:
through features, every model, the combination, its graphs and what is served."""

import json

import numpy as np
import polars as pl
import pytest
from homes import at_home
from small_models import PARAMS as QUICK_PARAMS
from small_release import small_about, small_features, small_rows

from tasks.core.dataset import Dataset
from tasks.core.folds import WalkForward
from tasks.core.panel import build_panel
from tasks.edges.artifacts import write_json
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.stage import ENSEMBLE, build_ensemble
from tasks.ensemble.unsealed_release import ReleaseOrigin, write_unsealed_release
from tasks.features.centres import MAX_LEVEL_SPREADS, find_centres
from tasks.features.stage import build_feature_set
from tasks.forecasters import FORECASTERS, build_forecaster
from tasks.release import load_unsealed_release, predict_cutoffs
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

SHIFT = 1e9
GATE = 40
PARAMS = QUICK_PARAMS | {
    "window_mean": {"window_steps": 7},
    "har": {"windows_steps": [1, 7]},
    "arima": {"order": [1, 0, 1]},
}
ABOUT = small_about(target={"column": "load", "unit": "kWh per day"}, primary_score="mae")
FEATURES = small_features(
    list=[
        *small_features().model_dump()["list"],
        {"kind": "series"},
        {"kind": "time"},
        {"kind": "value", "column": "close"},  # for garch
        {"kind": "lag", "column": "close", "steps": [1, 2, 3]},
    ]
)
WALK = WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=1)


def shifted_rows(shift=0.0, names=("north", "south"), n_steps=400):
    """Loads with ten binary digits after the point, which a shift of 1e9 leaves as they are."""
    rows = small_rows(n_steps=n_steps, series_ids=names)
    return rows.with_columns(load=(pl.col("load") * 1024).round() / 1024 + shift, close="load")


def panel_of(shift):
    built = build_feature_set(shifted_rows(shift), ABOUT, FEATURES)
    return build_panel(built.table, Dataset(ABOUT, built.calendar, built.schema))


@pytest.fixture(scope="module")
def panels():
    return panel_of(0.0), panel_of(SHIFT)


@pytest.mark.parametrize("name", sorted(FORECASTERS))
def test_the_forecasts_of_every_model_move_with_the_level_of_the_series(panels, name, tmp_path):
    made = []
    for panel in panels:
        last = len(panel.event_time) - 1 - GATE
        fit = build_forecaster(name, panel.schema, 1, PARAMS.get(name, {}))
        fit.fit(*panel.get_training_pairs(last, WALK))
        x, where = panel.get_inputs(np.arange(last, last + GATE))
        made.append(panel.add_centres(fit.predict(x), where[:, 1]).astype(np.float64))
    spread = np.nanstd(panels[0].z, axis=0).min()
    assert np.abs(made[1] - SHIFT - made[0]).max() < 1e-6 * spread


def served(shift, folder):
    """Forecasts of the last cutoffs by a release of two models, as the stages make it."""
    rows = shifted_rows(shift)
    built = build_feature_set(rows, ABOUT, FEATURES)
    data = TrainingData(built.table, Dataset(ABOUT, built.calendar, built.schema), GATE, built.vintages)
    walk = TrainParams(n_cutoffs=60, stride_steps=2, refit_every_cutoffs=30, min_train_steps=150)
    trained = {m: fit_model(m, data, walk, {}, lambda _: None) for m in ("last_value", "ridge")}
    frames = ({m: getattr(t, part) for m, t in trained.items()} for part in ("forecasts", "gate"))
    aligned = align_forecasts(*frames, build_panel(built.table, data.dataset), walk.stride_steps)
    assembled = build_ensemble(
        aligned, EnsembleParams(prune_above_frac=9.0, shrink_frac=0.25, residuals=100, adapt_rate=0.02)
    )
    for part in ("features", "release", *(f"fits/{m}" for m in trained)):
        (folder / part).mkdir(parents=True)
    for m, of_model in trained.items():
        of_model.fit.to_onnx(folder / f"fits/{m}/model.onnx")
    write_json(folder / "features/schema.json", built.schema.model_dump())
    write_json(folder / "features/features.json", built.params.model_dump(mode="json"))
    (folder / "features/leaks.json").write_text(json.dumps({}))
    origin = ReleaseOrigin("small", "0" * 64, walk.stride_steps)
    release = folder / "release"
    write_unsealed_release(
        release, assembled.candidates[ENSEMBLE], assembled, origin, folder / "features", folder / "fits"
    )
    strange = shifted_rows(shift, ("elsewhere",))
    every = pl.concat([rows, strange]).sort("series_id", "event_time")
    cutoffs = every["known_at"].unique().sort().to_list()[-3:]
    return predict_cutoffs(load_unsealed_release(release), every, cutoffs), assembled


def test_what_is_served_moves_with_the_level_of_the_series_also_of_one_never_seen(tmp_path):
    with at_home(tmp_path / "home", TIDEMILL_WORKERS="1", TIDEMILL_KEEP_FITS_MB="0"):
        (low, _), (high, _) = (served(shift, tmp_path / f"{shift:g}") for shift in (0.0, SHIFT))
    assert set(low["series_id"]) == {"north", "south", "elsewhere"}
    for column in ("y_hat", "q_0.1", "q_0.5", "q_0.9"):
        moved = (high[column] - SHIFT - low[column]).abs().max()
        assert moved < 1e-6 * 31, column  # the smaller spread of the two series


def test_a_file_whose_level_is_1e8_is_forecast_to_its_last_digit():
    level = [100_000_048.11, 100_000_059.87, 100_000_034.6]
    rows = shifted_rows(n_steps=120, names=("a",)).with_columns(load=1e8 + pl.col("load").round(2))
    rows = rows.with_columns(load=pl.Series([*rows["load"][:-3], *level]))
    built = build_feature_set(rows, ABOUT, FEATURES)
    panel = build_panel(built.table, Dataset(ABOUT, built.calendar, built.schema))
    x, where = panel.get_inputs(np.array([119]))
    fit = build_forecaster("last_value", panel.schema, 1, {}).fit(*panel.get_training_pairs(100, WALK))
    assert panel.add_centres(fit.predict(x), where[:, 1])[0] == pytest.approx([100_000_034.6] * 5, abs=1e-5)


def test_levels_that_float32_keeps_have_no_centre_and_others_keep_theirs_as_rows_come():
    assert find_centres(shifted_rows(0.0), ABOUT) == ()
    assert find_centres(shifted_rows(1e6).clear(), ABOUT) == ()
    assert find_centres(shifted_rows(0.0), small_about()) == ()  # logs
    of_all, of_some = (dict(find_centres(shifted_rows(1e6).head(n), ABOUT)) for n in (400, 390))
    assert of_all == of_some
    assert len(set(dict(find_centres(shifted_rows(1e9), ABOUT)).values())) == 1  # shared
    far = pl.concat([shifted_rows(1e9, ("a",)), shifted_rows(0.0, ("b",))])
    assert dict(find_centres(far, ABOUT)).keys() == {"a"}
    for name, centre in find_centres(far, ABOUT):
        z = far.filter(pl.col("series_id") == name)["load"]
        assert abs(z.median() - centre) <= MAX_LEVEL_SPREADS * z.std()
