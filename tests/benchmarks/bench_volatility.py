"""The default data beside HAR by two protocols, from the same out-of-fold forecasts: single days,
as the project scores, and the mean of the horizon, as the findings do.

Single days: each of the steps 1 to H by itself, as it would have been issued. Mean of the horizon:
y is exp of the mean of ln y over the H days that follow, y_hat of the mean of the steps' z_hat;
once as it is, once times a level factor, the root mean square of y / y_hat over all earlier cutoffs
whose outcomes are known (`../shared/findings/models.md`, section 2: "bc"). A single day has noise
that no forecast can know, and a mean of five has less of it: the same forecasts stand further from
HAR there. Run by `make bench`; about a minute, nothing is asserted.
"""

import numpy as np
import pytest
from small_checkout import small_checkout

from tasks.core.compare import diebold_mariano
from tasks.core.frames import FEATURES
from tasks.core.panel import build_panel
from tasks.core.scores import qlike
from tasks.edges.artifacts import read_frame
from tasks.edges.dataset import read_features_dataset
from tasks.edges.params import read_document
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.coverage import build_coverage
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.report import count_overlap
from tasks.ensemble.stage import ENSEMBLE, build_ensemble
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

pytestmark = pytest.mark.bench

HAR, GATE_STEPS = "har", 250


def test_volatility_by_single_days_and_by_the_mean_of_the_horizon(tmp_path, capsys):
    mill = small_checkout(tmp_path, whole=True)
    mill.repro("features")
    document, source = read_document(), mill.root / "data/features"
    dataset = read_features_dataset(source, document.about)
    with capsys.disabled():
        compare(document, TrainingData(read_frame(source / "table.parquet", FEATURES), dataset, GATE_STEPS))


def compare(document, data):
    """Train every model of the default data, combine, print both protocols and the years'
    coverage."""
    params, trained = document.parse_stage("train", TrainParams), {}
    for model in document.list_models():
        trained[model] = fit_model(model, data, params, document.get_model_params(model), log=lambda _: None)
    walk, gate = ({m: getattr(t, part) for m, t in trained.items()} for part in ("forecasts", "gate"))
    panel = build_panel(data.features, data.dataset)
    aligned = align_forecasts(walk, gate, panel, params.stride_steps)
    assembled = build_ensemble(aligned, document.parse_stage("ensemble", EnsembleParams))
    scored, ids = assembled.scored, aligned.panel.series_ids
    losses = {name: _losses(c, aligned, scored) for name, c in assembled.candidates.items()}
    print(
        f"\nQLIKE below HAR's by series ({', '.join(ids)}) over {scored.sum()} cutoffs, p of Diebold-Mariano;"
        f" ensemble: {assembled.choice.combiner}, best member: {assembled.choice.best_member}"
    )
    for name, of in losses.items():
        if name != HAR:
            print(
                f"  {name:<14}"
                + "".join(
                    f" | {what} {_gains(of[what], losses[HAR][what], count_overlap(aligned))}" for what in of
                )
            )
    print(
        "  HAR itself    "
        + "".join(
            f" | {what} " + ", ".join(f"{q:.4f}" for q in of.mean(axis=0)) for what, of in losses[HAR].items()
        )
    )
    for name in dict.fromkeys((ENSEMBLE, assembled.choice.best_member)):
        issued = assembled.issuer.predict_quantiles(assembled.candidates[name].z_hat)
        years = build_coverage(name, issued, assembled.issuer, scored, assembled.gate)["by_year"]
        print(
            f"  80 % interval of {name}, inside: "
            + ", ".join(f"{year} {share:.1%}" for year, share in years.items())
        )


def _losses(candidate, aligned, scored):
    """By protocol the QLIKE (k, S) of each scored cutoff and series; the single days' mean over
    the steps."""
    y, y_hat = np.exp(aligned.z.mean(axis=2)), np.exp(candidate.z_hat.mean(axis=2))
    known = aligned.known_k.max(axis=2)
    ratio, level = np.square(y / y_hat), np.full(y.shape, np.nan)
    for k in np.flatnonzero(scored):
        level[k] = np.sqrt(np.nanmean(np.where(known[:k] <= k, ratio[:k], np.nan), axis=0))
    found = {"single days": np.nanmean(candidate.loss[scored], axis=2)}
    return found | {
        "mean of 5": qlike(y[scored], y_hat[scored]),
        "with level": qlike(y[scored], (y_hat * level)[scored]),
    }


def _gains(ours, hars, overlap):
    both = [
        (o[there], h[there])
        for o, h in zip(ours.T, hars.T, strict=True)
        for there in [np.isfinite(o) & np.isfinite(h)]
    ]
    return ", ".join(
        f"{100 * (1 - o.mean() / h.mean()):.2f} % (p {diebold_mariano(h - o, overlap).p:.0e})"
        for o, h in both
    )
