"""What train promises: out of sample by construction, one protocol, the final fit knows nothing
of the gate's rows."""

import numpy as np
import polars as pl
import pytest
from panels import feature_table, render_reports, small_dataset, small_panel

from tasks.core.errors import FoldError, ForecasterError
from tasks.core.reports.train import SearchReport, SelectionReport
from tasks.edges.artifacts import read_report, write_report
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model, score

WALK = TrainParams(n_cutoffs=40, stride_steps=2, refit_every_cutoffs=10, min_train_steps=100)
GATE = 30
LEARNERS = ["ridge", "lightgbm"]


def _train(model, table, gate_steps=GATE, walk=WALK, **model_params):
    data = TrainingData(table, small_dataset(), gate_steps)
    return render_reports(fit_model(model, data, walk, model_params, log=lambda _: None))


@pytest.mark.parametrize("model", LEARNERS)
def test_rows_that_come_later_change_no_earlier_forecast(model):
    """The last 20 rows are spoilt; every forecast from a cutoff before them stays as it was, the
    fits among them included."""
    table = feature_table()
    first_spoilt = table["event_time"].unique().sort()[-GATE - 20]
    spoil = pl.col("event_time") >= first_spoilt
    names = ["y", "z", "z_last", "z_lag_1", "z_mean_5"]
    spoilt = table.with_columns(
        pl.when(spoil).then(pl.col(c) + 1000).otherwise(pl.col(c)).alias(c) for c in names
    )
    before = (pl.col("cutoff") <= first_spoilt) & pl.lit(value=True)
    honest, changed = (
        _train(model, t).forecasts.filter(before).select("series_id", "cutoff", "step", "y_hat")
        for t in (table, spoilt)
    )
    assert honest.height > 100
    assert honest.equals(changed)


@pytest.mark.parametrize("model", LEARNERS)
def test_the_final_fit_knows_nothing_of_the_gates_rows(model):
    table = feature_table()
    gate_from = table["event_time"].unique().sort()[-GATE]
    spoilt = table.with_columns(
        pl.when(pl.col("event_time") >= gate_from).then(pl.col(c) * 50).otherwise(pl.col(c)).alias(c)
        for c in ["y", "z"]
    )
    honest, changed = _train(model, table), _train(model, spoilt)
    np.testing.assert_array_equal(honest.gate["y_hat"], changed.gate["y_hat"])


def test_a_cutoff_speaks_of_the_steps_after_it_and_truth_is_what_came():
    table = feature_table()
    forecasts = _train("last_value", table).forecasts
    assert (forecasts["event_time"] >= forecasts["cutoff"]).all()
    assert forecasts["cutoff"].n_unique() == WALK.n_cutoffs
    joined = forecasts.join(
        table.select("series_id", "event_time", truth="y"), on=["series_id", "event_time"]
    )
    assert (joined["y"] == joined["truth"]).all()
    assert (
        forecasts.filter(pl.col("step") == 3)["event_time"] - forecasts.filter(pl.col("step") == 3)["cutoff"]
    ).unique().dt.total_days().to_list() == [2]


def test_steps_beyond_the_last_row_have_a_date_and_no_truth():
    gate = _train("last_value", feature_table()).gate
    newest = gate.filter(pl.col("cutoff") == gate["cutoff"].max())
    assert newest["y"].null_count() == newest.height
    assert newest["event_time"].n_unique() == 3


def test_the_same_seed_gives_the_same_forecasts():
    table = feature_table()
    assert _train("lightgbm", table).forecasts.equals(_train("lightgbm", table).forecasts)


def test_a_model_may_refit_more_rarely_than_the_others():
    assert [
        len(_train("ridge", feature_table(), refit_every_cutoffs=every).facts["folds"]) for every in (10, 40)
    ] == [5, 2]
    assert len(_train("ridge", feature_table()).facts["folds"]) == 5


def test_folds_that_do_not_fit_say_how_many_would():
    with pytest.raises(FoldError, match="at most"):
        _train("ridge", feature_table(n_steps=150))


def test_nothing_to_learn_from_names_the_cutoff():
    with pytest.raises(ForecasterError, match="No pair"):
        _train(
            "ridge",
            feature_table().with_columns(
                z=pl.lit(None, dtype=pl.Float64), z_last=pl.lit(None, dtype=pl.Float32)
            ),
        )


def test_scores_are_the_means_of_what_is_known():
    forecasts = _train("last_value", feature_table()).forecasts
    error = (forecasts["y"] - forecasts["y_hat"]).drop_nulls()
    scored = score(forecasts, small_panel()).render()
    assert scored["overall"]["mae"] == pytest.approx(error.abs().mean())
    assert scored["overall"]["rmse"] == pytest.approx((error**2).mean() ** 0.5)
    assert {row["series_id"] for row in scored["by_series"]} == {"s0", "s1"}


def test_its_reports_are_read_as_they_were_written_and_those_of_before_too(tmp_path):
    data = TrainingData(feature_table(), small_dataset(), GATE)
    own = {"select": {}, "search": {"space": {"penalty": {"float": [0.01, 1.0]}}, "n_trials": 1}}
    trained = fit_model("ridge", data, WALK, own, lambda _: None)
    for report in (trained.plan, trained.metrics, trained.facts, trained.search, trained.selection):
        write_report(tmp_path / "report.json", report)
        assert read_report(tmp_path / "report.json", type(report)) == report
    assert SearchReport.parse(trained.search.render()["searches"], "search.json") == trained.search
    before = trained.selection.render()
    before["folds"] = [{"fit_at": fold["fit_at"], "kept": fold["columns"]} for fold in before["folds"]]
    assert SelectionReport.parse(before, "selection.json") == trained.selection
