"""Accuracy on published protocols, ours and a peer's in one run; prints both sides, asserts
nothing.

Settings were chosen on earlier windows, never on the test. Run by `make bench`, with the folder of
shared data. The peer lives in an environment of its own, `.venv-peers`, from
tests/benchmarks/peers.
"""

import subprocess
import time

import numpy as np
import polars as pl
import pytest
from m4 import HORIZON, HOURLY, SEASON, m4_rows, m4_scores, m4_series
from small_checkout import ROOT

from tasks.core.about import About
from tasks.core.dataset import Dataset
from tasks.core.folds import WalkForward
from tasks.core.frames import SERIES
from tasks.core.panel import build_panel
from tasks.core.transform import inverse_transform_target
from tasks.edges.workers.fanout import MapOptions, run_jobs
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.combiner import compute_shares
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.stage import ENSEMBLE, build_ensemble
from tasks.features import FeatureParams, build_feature_schema, build_features
from tasks.forecasters import build_forecaster, get_forecaster_class
from tasks.train.walk import WalkForecasts, build_forecast_frame

pytestmark = [pytest.mark.bench, pytest.mark.shared]

# To first order OWA is |log error| x (100 / Naive2's sMAPE + level / seasonal error / Naive2's
# MASE), halved.
WEIGHT = {"constant": 100 / 18.383, "factor": 1 / 2.395, "column": "y_steadiness_24_960"}
LIST = [
    {"kind": "lag", "column": "z", "steps": list(range(1, 336))},
    {"kind": "mean", "column": "z", "window_steps": [336]},
    {"kind": "change", "column": "z", "steps": [24], "window_steps": 312},
    {"kind": "change", "column": "z", "steps": [168], "window_steps": 168},
    {"kind": "steadiness", "column": "y", "steps": [24], "window_steps": 960},
]
SEEN = [f"z_lag_{k}" for k in (*range(1, 25), 48, 168, 335)]
MODELS = {
    "seasonal_naive": {},
    "ridge": {
        "penalty": 1e-4,
        "loss": "absolute",
        "weight": WEIGHT,
        "whole_rows": True,
        "max_rows": 100_000,
        "groups": [
            {"column": "z_change_168_168", "over": "z_change_24_312", "parts": 4},
            {"column": "z_mean_336", "parts": 2},
        ],
    },
    "lightgbm": {
        "base": "seasonal",
        "loss": "absolute",
        "max_rows": 250_000,
        "n_trees": 200,
        "num_leaves": 127,
        "learning_rate": 0.1,
        "aligned_steps": [48, 72, 96, 120, 144, 168, 192, 336],
        "columns": [*SEEN, "z_mean_336", "z_change_24_312", "z_change_168_168", "y_steadiness_24_960"],
    },
}
WALK = WalkForward(
    n_cutoffs=5, stride_steps=HORIZON, refit_every_cutoffs=1, min_train_steps=336, window_steps=624
)


ETTH1 = [  # horizon_steps, the aim, and what is published of PatchTST and NLinear
    (96, "<= .371 / .392", ".370 / .400, .374 / .394"),
    (336, "<= .429 / .427", ".422 / .440, .429 / .427"),
]


def _say(what, reach, seen):
    print(f"{what:<62} reach {reach:<28} seen {seen}")


def test_m4_hourly(shared_data, tmp_path):
    """Four windows before the test choose the weights; the fifth cutoff is the test's, scored
    once."""
    series = m4_series(shared_data / "m4")
    about = About(
        description="M4 Hourly",
        every="1h",
        integer_time=True,
        target={"column": "value", "unit": "1", "transform": "log"},
        horizon_steps=HORIZON,
        season_steps=SEASON,
        primary_score="smape",
    )
    params = FeatureParams.model_validate({"list": LIST, "last_within_steps": 1})
    dataset = Dataset(about, HOURLY, build_feature_schema(about, params))
    panel = build_panel(build_features(m4_rows(series), about, params, HOURLY), dataset)
    test = len(panel.event_time) - 1 - HORIZON
    walk, gate, seconds = {}, {}, {}
    for name, own in MODELS.items():
        begun = time.monotonic()
        how = MapOptions(2, get_forecaster_class(name).releases_gil)
        parts = run_jobs(
            _window,
            (panel, name, own),
            [test - back * HORIZON for back in range(WALK.n_cutoffs - 1, 0, -1)],
            how,
        )
        walked = time.monotonic()
        parts.append(_window((panel, name, own), test))
        seconds[name] = walked - begun, time.monotonic() - walked
        predicted = WalkForecasts(
            np.concatenate([p.where for p in parts]), np.concatenate([p.z_hat for p in parts])
        )
        walk[name] = gate[name] = build_forecast_frame(panel, predicted, name)
        windows = [
            m4_scores(series, _by_series(panel, about, part), back=(WALK.n_cutoffs - 1 - i) * HORIZON)[2]
            for i, part in enumerate(parts)
        ]
        _say(
            f"M4 Hourly, {name}: test OWA; mean of 4 windows before",
            "",
            f"{windows[-1]:.4f}; {np.mean(windows[:-1]):.4f}",
        )
    aligned = align_forecasts(walk, gate, panel, HORIZON)
    found = build_ensemble(
        aligned, EnsembleParams(prune_above_frac=0.1, shrink_frac=0.25, residuals=500, adapt_rate=0.02)
    )
    point = inverse_transform_target(
        about.target, found.candidates[ENSEMBLE].issued.point[aligned.n_walk - 1]
    )
    ours = m4_scores(series, dict(zip(panel.series_ids, point, strict=True)))
    _say(
        "M4 Hourly, ensemble: sMAPE / MASE / OWA on the test",
        "OWA <= .375",
        "{:.2f} / {:.3f} / {:.4f}".format(*ours),
    )
    share = compute_shares(found.candidates[ENSEMBLE].combination, aligned.models)
    _say(
        "  its shares",
        found.choice.combiner,
        {m: round(float(w), 3) for m, w in zip(aligned.models, share, strict=True)},
    )
    _say("  fit + predict of all members", "<= 20 s", f"{sum(alone for _, alone in seconds.values()):.1f} s")
    _say(
        "M4 Hourly, 4 windows with refit, all members / ridge alone",
        "<= 60 s / mlforecast's",
        f"{sum(four for four, _ in seconds.values()):.1f} s / {seconds['ridge'][0]:.1f} s",
    )
    _peer(series, tmp_path)


def _window(shared, origin):
    """What one fit as of *origin* forecasts there, the unit that `train` fans out."""
    panel, name, own = shared
    fit = build_forecaster(name, panel.schema, 1, own).fit(*panel.get_training_pairs(origin, WALK))
    x, where = panel.get_inputs(np.array([origin]))
    return WalkForecasts(where, fit.predict(x))


def _by_series(panel, about, predicted):
    return {
        panel.series_ids[s]: inverse_transform_target(about.target, z_hat)
        for (_, s), z_hat in zip(predicted.where, predicted.z_hat, strict=True)
    }


def _peer(series, tmp_path):
    frame = pl.concat(
        pl.DataFrame({"unique_id": name, "ds": np.arange(1, len(y) + 1), "y": y})
        for name, (y, _) in series.items()
    )
    frame.write_parquet(tmp_path / "train.parquet")
    for windows in (0, 4):
        command = [
            ROOT / ".venv-peers/bin/python",
            ROOT / "tests/benchmarks/peers/m4_lightgbm.py",
            tmp_path / "train.parquet",
            tmp_path / "out.parquet",
            str(windows),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = pl.read_parquet(tmp_path / "out.parquet")
        if windows:
            firsts = {name: len(y) for name, (y, _) in series.items()}
            found = found.with_columns(back=(pl.col("unique_id").replace_strict(firsts) - pl.col("cutoff")))
            each = [
                m4_scores(series, _peers(found.filter(pl.col("back") == HORIZON * k)), back=HORIZON * k)[2]
                for k in range(1, windows + 1)
            ]
            _say(
                "M4 Hourly, mlforecast's cross_validation of 4 windows: OWA",
                "",
                f"{np.mean(each):.4f} in {float(done.stdout):.1f} s",
            )
        else:
            _say(
                "M4 Hourly, mlforecast LightGBM (log, diff 24): test OWA",
                ".471",
                f"{m4_scores(series, _peers(found))[2]:.4f} in {float(done.stdout):.1f} s",
            )


def _peers(found):
    return {
        key[0]: part["y_hat"].to_numpy()
        for key, part in found.sort("unique_id", "ds").group_by(["unique_id"], maintain_order=True)
    }


@pytest.mark.parametrize(("horizon_steps", "reach", "published"), ETTH1)
def test_etth1(shared_data, horizon_steps, reach, published):
    """336 lags, the last value subtracted, all channels and windows; penalty by the validation
    part."""
    wide = pl.read_csv(shared_data / "ett/ETTh1.csv", try_parse_dates=True).head(14400)
    values = [c for c in wide.columns if c != "date"]
    scaled = wide.select(
        pl.col("date").dt.replace_time_zone("UTC").dt.cast_time_unit("us").alias("event_time"),
        *((pl.col(c) - pl.col(c).head(8640).mean()) / pl.col(c).head(8640).std(ddof=0) for c in values),
    )
    rows = SERIES.conform(
        scaled.unpivot(values, index="event_time", variable_name="series_id").with_columns(
            known_at=HOURLY.nominal_known_at()
        )
    )
    target = {"column": "value", "unit": "1"}
    about = About(description="ETTh1", every="1h", target=target, horizon_steps=horizon_steps)
    started = time.monotonic()
    params = FeatureParams.model_validate({"list": [LIST[0]], "last_within_steps": 1})
    dataset = Dataset(about, HOURLY, build_feature_schema(about, params))
    panel = build_panel(build_features(rows, about, params, HOURLY), dataset)
    once = WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=336)
    fit = build_forecaster("ridge", panel.schema, 1, {"penalty": 0.01, "base": "last"}).fit(
        *panel.get_training_pairs(8639, once)
    )
    x, where = panel.get_inputs(np.arange(11519, 14400 - horizon_steps))
    z_hat = fit.predict(x)
    seconds = time.monotonic() - started
    steps = range(1, horizon_steps + 1)
    error = np.stack([panel.y[where[:, 0] + s, where[:, 1]] for s in steps], axis=1) - z_hat
    _say(
        f"ETTh1, h = {horizon_steps}, ridge of 336 lags: MSE / MAE",
        reach,
        f"{np.mean(error**2):.4f} / {np.mean(np.abs(error)):.4f} over {len(error)} rows",
    )
    _say("  features, fit and predict", "<= 30 s", f"{seconds:.1f} s")
    _say("  published PatchTST, NLinear", "", published)
