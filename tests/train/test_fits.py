"""How fits are made: the same whoever makes them, each only once, within a budget, going on from
each other or not."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from homes import at_home
from panels import feature_table, render_reports, small_dataset, small_panel, small_schema

from deployments.console.charts.folds import draw_folds
from tasks.core.errors import FoldError, ForecasterError, ParamsError
from tasks.core.folds import build_folds
from tasks.core.frames import FORECAST
from tasks.core.reports.train import PlanReport
from tasks.edges import fit_cache
from tasks.edges.settings import build_child_environment
from tasks.edges.workers import fanout
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.stage import build_ensemble
from tasks.forecasters import FORECASTERS
from tasks.forecasters.models.linear.ridge import Ridge
from tasks.train import fits, stage
from tasks.train.params import TrainParams
from tasks.train.plan import FitPlan, build_plan_report
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

ROOT = Path(__file__).resolve().parents[2]
WALK = TrainParams(n_cutoffs=40, stride_steps=2, refit_every_cutoffs=10, min_train_steps=100)
GATE = 30


class Going(Ridge):
    """A ridge that can go on from an earlier fit: it takes half of the way to what it would
    learn from nothing."""

    def learn_on(self, x, z, start):
        self.learn(x, z)
        if str(start.learned["base"]) == str(self.learned["base"]):
            self.learned["coefficients"] = (self.learned["coefficients"] + start.learned["coefficients"]) / 2


@pytest.fixture(autouse=True)
def going(monkeypatch):
    monkeypatch.setitem(FORECASTERS, "going", f"{__name__}:Going")


@pytest.fixture
def made(monkeypatch):
    """The origins as of which fits were made in this process, in order."""
    ats, make = [], fits.make_fit
    monkeypatch.setattr(fits, "make_fit", lambda ground, job: ats.append(job.origin) or make(ground, job))
    return ats


def _train(model="ridge", table=None, gate_steps=GATE, walk=WALK, say=lambda _: None, **own):
    data = TrainingData(feature_table() if table is None else table, small_dataset(), gate_steps)
    return render_reports(fit_model(model, data, walk, own, say))


def _same(a, b):
    return (
        a.forecasts.equals(b.forecasts) and a.gate.equals(b.gate) and a.plan == b.plan and a.facts == b.facts
    )


@pytest.mark.parametrize(("model", "releases_gil"), [("lightgbm", True), ("ridge", False)])
def test_results_do_not_depend_on_the_number_of_workers_nor_on_the_order_of_series(
    model, releases_gil, tmp_path, monkeypatch
):
    monkeypatch.setattr(fanout, "START_S", -1e6)
    monkeypatch.setattr(Ridge, "releases_gil", False)
    table = feature_table(n_series=3)
    with at_home(tmp_path / "one", TIDEMILL_WORKERS="1"):
        alone = _train(model, table)
    with at_home(tmp_path / "many", TIDEMILL_WORKERS="4" if releases_gil else "2"):
        shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)
        assert _same(alone, _train(model, shuffled))
    with at_home(tmp_path / "none", TIDEMILL_WORKERS="1", TIDEMILL_KEEP_FITS_MB="0"):
        assert _same(alone, _train(model, table))
        assert not (tmp_path / "none/fits").exists()


def test_a_second_training_makes_no_fit_and_says_the_same(made):
    first, told = _train(), []
    n_fits = len(made)
    assert n_fits == first.plan["n_fits"] == 6
    assert _same(first, _train(say=told.append))
    assert len(made) == n_fits
    assert any("6 of 6 fits were made before" in line for line in told)


def test_a_longer_history_adds_only_its_new_folds(made):
    longer = feature_table(n_steps=410)
    cut = longer.filter(pl.col("event_time") < longer["event_time"].unique().sort()[400])
    _train(table=cut)
    folds = set(made) - {400 - 1 - GATE}
    made.clear()
    _train(table=longer)
    last_origin = 410 - 1 - GATE
    assert last_origin in made
    assert all(at > max(folds) for at in made)
    assert len(made) <= 2  # ten more steps hold one refit at most


@pytest.mark.parametrize("change", [{"seed": 2}, {"window_steps": 90}])
def test_another_walk_takes_no_fit_that_learned_from_other_rows_or_with_another_seed(made, change):
    _train()
    made.clear()
    _train(walk=WALK.model_copy(update=change))
    assert len(made) == 6


def test_other_parameters_code_or_values_make_fits_anew(made, monkeypatch):
    _train()
    for own, table in (
        ({"penalty": 0.5}, None),
        ({}, feature_table().with_columns(z=pl.col("z") + 1e-9, z_mean_5=pl.col("z_mean_5") * 2)),
    ):
        made.clear()
        _train(table=table, **own)
        assert len(made) == 6
    made.clear()
    for module in (stage, fits):
        monkeypatch.setattr(module, "compute_code_digest", lambda: "another")
    _train()
    assert len(made) == 6


def test_a_damaged_entry_is_made_again(home, made):
    first = _train()
    for path in (home / "fits").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    made.clear()
    assert _same(first, _train())
    assert len(made) == 6


def test_kept_fits_stay_within_their_bound_and_the_newest_used_stay(tmp_path):
    with at_home(tmp_path, TIDEMILL_KEEP_FITS_MB="1"):
        fit = (
            fits.encode_fit(
                Ridge(small_schema(), 1).fit(np.ones((9, 3), np.float32), np.ones((9, 3), np.float32))
            )
            + b"\0" * 0
        )
        big = fit + b"\0" * 300_000  # a zip archive may be followed by anything
        for i in range(6):
            fit_cache.write_cached_fit(f"{i}", big)
            os.utime(tmp_path / "fits" / f"{i}.zip", (1000 + i, 1000 + i))
        fit_cache.delete_old_fits()
        assert sorted(p.stem for p in (tmp_path / "fits").iterdir()) == ["3", "4", "5"]


def test_a_killed_training_goes_on_where_it_was(tmp_path):
    """kill -9 in the third fit: the next run makes the ones that were not finished, and the
    result is that of an undisturbed run."""
    code = (
        "import os, sys\nsys.path[:0] = sys.argv[1:3]\nimport test_fits as t\nmake, n = t.fits.make_fit,"
        " [0]\ndef counted(ground, job):\n    n[0] += 1\n    if n[0] == int(sys.argv[3]):"
        " os.kill(os.getpid(), 9)\n    return make(ground, job)\nt.fits.make_fit = counted\nresult ="
        " t._train()\nprint(n[0], result.forecasts.hash_rows().sum())"
    )

    def run(home, kill_at):
        command = [
            sys.executable,
            "-c",
            code,
            str(ROOT / "tests/support"),
            str(Path(__file__).parent),
            str(kill_at),
        ]
        return subprocess.run(
            command,
            env=build_child_environment(TIDEMILL_HOME=str(home), TIDEMILL_WORKERS="1"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    assert run(tmp_path / "killed", 3).returncode == -signal.SIGKILL
    n_again, again = run(tmp_path / "killed", 0).stdout.split()
    assert int(n_again) == 4  # of six
    assert int(again) == _train().forecasts.hash_rows().sum()


def test_a_budget_ends_with_the_newest_cutoffs_and_says_so(made):
    told = []
    walk = WALK.model_copy(update={"budget_s": 1e-6})
    short, whole = _train(walk=walk, say=told.append), _train()
    assert len(told[-1]) > 0
    assert any("THE BUDGET of 1e-06 s ended after 2 of 6 fits" in line for line in told)
    assert short.plan["n_cutoffs_left_out"] == walk.n_cutoffs - short.forecasts["cutoff"].n_unique() > 0
    assert [fold["done"] for fold in short.plan["folds"]] == [False] * 4 + [True]
    assert len(short.facts["folds"]) == 1
    newest = whole.forecasts.filter(pl.col("cutoff") >= short.forecasts["cutoff"].min())
    assert short.forecasts.equals(newest)
    assert short.gate.equals(whole.gate)
    assert len(made) == 6  # the second training took the two that were there


def test_an_ensemble_is_built_with_a_member_that_the_budget_cut_short():
    names = {"last_value": WALK, "ridge": WALK.model_copy(update={"budget_s": 1e-6})}
    trained = {name: _train(name, walk=walk) for name, walk in names.items()}
    assert trained["ridge"].forecasts.height < trained["last_value"].forecasts.height
    panel = small_panel()
    frames = ({name: getattr(t, part) for name, t in trained.items()} for part in ("forecasts", "gate"))
    aligned = align_forecasts(*frames, panel, WALK.stride_steps)
    params = EnsembleParams(
        prune_above_frac=0.1, shrink_frac=0.25, residuals=100, adapt_rate=0.02, burn_in_cutoffs=5
    )
    assembled = build_ensemble(aligned, params)
    assert np.isfinite(assembled.candidates[assembled.shipped].issued.point[aligned.n_walk :]).all()
    assert aligned.n_walk == WALK.n_cutoffs


def test_a_budget_that_cuts_a_chain_of_warm_fits_is_refused_with_the_ways_out(made):
    with pytest.raises(FoldError, match=r"after 0 of 6 fits .* set `refit: full`"):
        _train("going", walk=WALK.model_copy(update={"budget_s": 1e-9}), refit="warm")


def test_frozen_makes_one_fit_that_serves_all_and_has_seen_nothing_of_them(made):
    frozen = _train(refit="frozen")
    assert len(made) == 1
    spoil = pl.col("event_time") > feature_table()["event_time"].unique().sort()[made[0]]
    later = feature_table().with_columns(
        pl.when(spoil).then(pl.col(c) * 3).otherwise(pl.col(c)).alias(c) for c in ("y", "z")
    )
    assert frozen.forecasts.drop("y").equals(_train(table=later, refit="frozen").forecasts.drop("y"))
    assert len(frozen.facts["folds"]) == 5


def test_a_warm_fit_goes_on_from_the_fold_before(made):
    warm, full = _train("going", refit="warm"), _train("going")
    first = (
        warm.forecasts["cutoff"]
        < pl.Series([warm.plan["folds"][1]["first_cutoff"]]).str.to_datetime(time_zone="UTC")[0]
    )
    assert warm.forecasts.filter(first).equals(full.forecasts.filter(first))
    assert not warm.forecasts.filter(~first)["y_hat"].is_in(full.forecasts["y_hat"].implode()).any()
    assert made[:6] == sorted(made[:6])
    made.clear()
    assert _same(warm, _train("going", refit="warm"))
    assert made == []


def test_a_model_that_cannot_go_on_says_so_and_an_unknown_mode_names_the_three():
    with pytest.raises(ForecasterError, match=r"cannot go on from an earlier fit\. Set `refit: full`"):
        _train(refit="warm")
    with pytest.raises(ParamsError, match=r"models.ridge: `refit`.*'full', 'warm' or 'frozen'"):
        _train(refit="sometimes")


def _saved(folder, trained):
    folder.mkdir()
    trained.fit.save(folder)
    (folder / "fit.json").write_text(json.dumps(trained.facts))
    return str(folder)


def test_transfer_goes_on_from_the_fit_of_another_dataset(tmp_path):
    other = _train("going", feature_table(n_steps=200, seed=9), walk=WALK.model_copy(update={"n_cutoffs": 5}))
    folder = _saved(tmp_path / "other", other)
    moved, own = _train("going", start_from=folder), _train("going")
    assert not moved.forecasts["y_hat"].is_in(own.forecasts["y_hat"].implode()).any()
    assert re.fullmatch("[0-9a-f]{64}", moved.facts["start_from"]["sha256"])


def test_transfer_is_refused_from_another_kind_other_columns_or_a_later_past(tmp_path):
    early = WALK.model_copy(update={"n_cutoffs": 5})
    late = _saved(tmp_path / "late", _train("going"))
    with pytest.raises(FoldError, match="would not be out of sample"):
        _train("going", start_from=late)
    with pytest.raises(ForecasterError, match=r"holds a .*Going, not a Ridge"):
        _train("ridge", start_from=late)
    trained = _train("going", feature_table(n_steps=200), walk=early)
    trained.fit.schema = small_schema().model_copy(update={"horizon_steps": 2})
    with pytest.raises(ForecasterError, match=r"other columns.*\['horizon_steps'\] differ"):
        _train("going", start_from=_saved(tmp_path / "columns", trained))
    with pytest.raises(ForecasterError, match="holds no fit"):
        _train("going", start_from=str(tmp_path / "nowhere"))


def test_the_plan_is_said_first_and_its_file_holds_what_was_done():
    told = []
    trained = _train(say=told.append)
    assert "40 cutoffs from" in told[0]
    assert "6 fits (full) on all that is known" in told[0]
    assert "so all 6 take about" in told[1]
    assert sum(fold["n_cutoffs"] for fold in trained.plan["folds"]) == 40
    assert [fold["n_rows"] for fold in trained.plan["folds"]] == sorted(
        fold["n_rows"] for fold in trained.plan["folds"]
    )
    last = trained.plan["folds"][-1]
    rows = feature_table().filter(
        pl.col("known_at") <= pl.lit(last["fit_at"]).str.to_datetime(time_zone="UTC")
    )
    assert last["n_rows"] == rows.height
    assert trained.forecasts.schema == FORECAST.conform(trained.forecasts).schema


def test_the_chart_in_the_docs_is_drawn_by_the_console():
    assert (ROOT / "docs/how-it-works/folds.svg").read_bytes() == docs_chart().content


def docs_chart():
    """Twelve cutoffs every second step, three to a fold, on 60 steps with a horizon of 5, an
    embargo of 2 and a gate of 8."""
    walk = TrainParams(
        n_cutoffs=12, stride_steps=2, refit_every_cutoffs=3, min_train_steps=18, embargo_steps=2
    )
    panel = small_panel(n_steps=60)
    folds = build_folds(60, 51, 5, walk)
    plan = FitPlan(folds, [f.fit_at for f in folds], [0] * len(folds), 51, "full")
    report = build_plan_report(plan, panel, walk, set(plan.origins)).model_copy(update={"horizon_steps": 5})
    return draw_folds(report, "folds of a walk")


def test_the_folds_of_a_plan_can_be_drawn():
    trained = _train()
    folds = trained.plan["folds"]
    origins = range(folds[0]["first_origin"], trained.plan["last_origin"] + 1, WALK.stride_steps)
    assert [
        origin
        for fold in folds
        for origin in range(fold["first_origin"], fold["last_origin"] + 1, WALK.stride_steps)
    ] == list(origins)
    chart = draw_folds(PlanReport.parse(trained.plan, "plan.json"), "folds")
    assert f"{len(folds)} folds" in chart.content.decode()
