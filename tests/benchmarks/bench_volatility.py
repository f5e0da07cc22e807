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
from tasks.core.schema import FeatureSchema
from tasks.core.scores import qlike
from tasks.edges.artifacts import read_calendar, read_frame, read_json
from tasks.edges.params import read_about, read_model_params, read_models, read_params
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.coverage import build_coverage
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.report import count_overlap
from tasks.ensemble.stage import ENSEMBLE, build_ensemble
from tasks.train.params import TrainParams
from tasks.train.stage import fit_model

pytestmark = pytest.mark.bench

HAR, GATE_STEPS = "har", 250


def test_volatility_by_single_days_and_by_the_mean_of_the_horizon(tmp_path, capsys):
    mill = small_checkout(tmp_path, whole=True)
    mill.repro("features")
    about, source = read_about(), mill.root / "data/features"
    schema = FeatureSchema.model_validate(read_json(source / "schema.json"))
    with capsys.disabled():
        compare(read_frame(source / "table.parquet", FEATURES), schema, about, read_calendar(source, about))


def compare(table, schema, about, calendar):
    """Train every model of the default data, combine, print both protocols and the years'
    coverage."""
    params, trained = read_params("train", TrainParams), {}
    for model in read_models():
        trained[model] = fit_model(
            model,
            table,
            schema,
            about,
            calendar,
            params,
            read_model_params(model),
            GATE_STEPS,
            say=lambda _: None,
        )
    walk, gate = ({m: getattr(t, part) for m, t in trained.items()} for part in ("forecasts", "gate"))
    aligned = align_forecasts(
        walk, gate, build_panel(table, schema, calendar), calendar, about, params.stride_steps
    )
    assembled = build_ensemble(aligned, about, read_params("ensemble", EnsembleParams))
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
        issued = assembled.issuer.whole(assembled.candidates[name].z_hat)
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
