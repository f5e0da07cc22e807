"""`mase` and `owa` as primary scores decide the ensemble, a training and its search, the gate
and INT8."""

import numpy as np
import pytest
from members import GATE, PARAMS, aligned_of, small_members
from panels import CALENDAR, HORIZON, feature_table, render_reports, small_about, small_dataset, small_panel

from tasks.core.scores import compute_primary_loss
from tasks.core.seasonal import build_seasonal_from_panel, build_seasonal_from_rows
from tasks.ensemble.stage import ENSEMBLE, build_ensemble
from tasks.ensemble.summary import build_summary
from tasks.promote.gate import compare_forecasts
from tasks.promote.params import PromoteParams
from tasks.quantize.rows import build_gate_rows, compute_losses
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

SCALED = pytest.mark.parametrize("score", ["mase", "owa"])
GATE_PARAMS = PromoteParams(gate_steps=30, min_gate_rows=20, alpha=0.05, min_gain_frac=0.005)
WALK = TrainParams(n_cutoffs=40, stride_steps=2, refit_every_cutoffs=10, min_train_steps=100)


def _train(model, about, **model_params):
    data = TrainingData(feature_table(), small_dataset(about), 30)
    return render_reports(fit_model(model, data, WALK, model_params, lambda _: None))


@SCALED
def test_the_ensemble_is_chosen_and_reported_by_it(score):
    aligned, by_mae = (
        aligned_of(small_members(panel), panel, n_walk=501)
        for panel in (small_panel(small_about(s), n_steps=700) for s in (score, "mae"))
    )
    assembled = build_ensemble(aligned, PARAMS)
    facts = build_summary(assembled, aligned).render()
    mae = build_ensemble(by_mae, PARAMS).candidates[ENSEMBLE]
    k, s, h = 300, 1, 2
    scale = build_seasonal_from_panel(aligned.panel).scale[aligned.origins[k], s]
    if score == "mase":
        assert assembled.candidates[ENSEMBLE].loss[k, s, h] == pytest.approx(mae.loss[k, s, h] / scale)
    assert assembled.choice.best_member == "har"
    assert 0 < facts["scores"][ENSEMBLE]["primary"] < facts["scores"]["last_value"]["primary"]
    assert facts["confidence_set"]["p"].keys() == facts["scores"].keys()


@SCALED
def test_training_and_its_search_are_judged_by_it(score):
    about = small_about(score)
    own = {
        "search": {
            "space": {"penalty": {"float": [1e-4, 10.0], "log": True}},
            "n_trials": 3,
            "inner_cutoffs": 6,
            "prune": False,
        }
    }
    trained = _train("ridge", about, **own)
    known = trained.forecasts.drop_nulls("y")
    found = build_seasonal_from_panel(small_panel(about)).scaling_errors_of_rows(known)
    expected = compute_primary_loss(score, known["y"].to_numpy(), known["y_hat"].to_numpy(), found).mean()
    assert trained.metrics["overall"][f"primary_{score}"] == pytest.approx(expected)
    outer = trained.search[0]["outer"]
    assert np.isfinite(
        [trained.search[0]["inner"]["error_before"], outer["error"], outer["error_before"]]
    ).all()


@SCALED
def test_the_gate_passes_the_better_by_it_and_only_the_better(score):
    about, table = small_about(score), feature_table()
    naive, ridge = (_train(name, about).gate for name in ("last_value", "ridge"))
    measured = build_seasonal_from_rows(table, about, CALENDAR)
    better, worse = (
        compare_forecasts(ridge, naive, about, GATE_PARAMS, measured),
        compare_forecasts(naive, ridge, about, GATE_PARAMS, measured),
    )
    assert better.gain_frac > 0 > worse.gain_frac
    assert worse.passed is False
    assert score in better.reason
    if score == "owa":
        # Last value is the seasonal naive of a season of 1
        assert worse.mean_loss.challenger == pytest.approx(1.0)


@SCALED
def test_int8_is_judged_by_it(score):
    panel = small_panel(small_about(score))
    rows = build_gate_rows(panel, GATE)
    last = rows.x[:, [panel.schema.index("z_last")]] * np.ones(HORIZON)
    measured = np.nanmean(compute_losses(last, rows, None))
    assert measured == pytest.approx(1.0) if score == "owa" else 0.5 < measured < 3
