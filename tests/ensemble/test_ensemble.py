import numpy as np
import polars as pl
import pytest
from panels import CALENDAR, small_about, small_panel

from tasks.ensemble.align import align
from tasks.ensemble.body import history_frame, issued_frame
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.stage import ENSEMBLE, assemble, decide_shipped, summary
from tasks.ensemble.weights import combine, weights_at, weights_over_time
from tasks.train.walk import Predicted, forecast_frame

PARAMS = EnsembleParams(prune_above_frac=0.1, shrink_frac=0.25, residuals=100, adapt_rate=0.02, reweight_every_cutoffs=20, burn_in_cutoffs=30)
GATE = 40


def _member(panel, name, values, origins):
    """Forecasts of one member at *origins*: values(origin, series) -> (H,)."""
    where = np.array([(o, s) for o in origins for s in range(len(panel.series_ids))])
    z_hat = np.array([values(o, s) for o, s in where])
    return forecast_frame(panel, Predicted(where, z_hat), small_about(), CALENDAR, name)


def _aligned(members, panel=None, stride=1):
    """Members named like baselines where they should count as such."""
    panel = panel or small_panel()
    last = len(panel.event_time) - 1 - GATE
    walk = {n: _member(panel, n, f, range(last - 200, last + 1, stride)) for n, f in members.items()}
    gate = {n: _member(panel, n, f, range(last, last + GATE + 1)) for n, f in members.items()}
    return align(walk, gate, panel, CALENDAR, small_about(), stride)


def _members(panel, phi=0.7):
    truth = panel.z
    steps = np.arange(1, 4)
    rng = np.random.default_rng(5)
    return {
        "last_value": lambda o, s: np.full(3, truth[o, s]),
        "har": lambda o, s: 10 + phi**steps * (truth[o, s] - 10),
        "noise": lambda o, s: 10 + 8 * rng.normal(size=3),
    }


def test_truth_and_availability_come_from_the_panel():
    panel = small_panel()
    aligned = _aligned(_members(panel), panel)
    assert aligned.z_hat.shape == (3, 201 + GATE, 2, 3)
    k = 50
    np.testing.assert_array_equal(aligned.z[k, :, 1], panel.z[aligned.origins[k] + 2])
    assert (aligned.known_k[k] == k + np.arange(1, 4)).all()
    assert not aligned.known_by(k)[k:].any()


def test_a_stride_makes_an_outcome_known_at_the_next_cutoff_on_it():
    panel = small_panel()
    aligned = _aligned(_members(panel), panel, stride=5)
    assert (aligned.known_k[3] == 4).all()
    assert aligned.learns[: aligned.n_walk].all()
    assert np.flatnonzero(aligned.learns[aligned.n_walk :]).tolist() == list(range(4, GATE, 5))


def test_weights_are_a_share_each_and_the_useless_member_is_pruned():
    panel = small_panel()
    weights = weights_at(_aligned(_members(panel), panel), 150, PARAMS, absolute=False)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert weights[2] == 0.0
    assert weights[1] > weights[0]


def test_weights_use_only_outcomes_known_by_then():
    panel = small_panel()
    aligned = _aligned(_members(panel), panel)
    spoilt = aligned.z.copy()
    spoilt[aligned.known_k > 100] = 1e6
    changed = aligned.__class__(**{**aligned.__dict__, "z": spoilt})
    np.testing.assert_array_equal(weights_over_time(aligned, PARAMS, absolute=False)[:101], weights_over_time(changed, PARAMS, absolute=False)[:101])


def test_the_gates_rows_choose_no_weight():
    panel = small_panel()
    aligned = _aligned(_members(panel), panel)
    spoilt = aligned.z.copy()
    spoilt[aligned.known_k >= aligned.n_walk] = 1e6
    changed = aligned.__class__(**{**aligned.__dict__, "z": spoilt})
    np.testing.assert_array_equal(weights_over_time(aligned, PARAMS, absolute=False), weights_over_time(changed, PARAMS, absolute=False))


def test_identical_members_share_and_do_not_break_the_fit():
    panel = small_panel()
    same = _members(panel)["har"]
    weights = weights_at(_aligned({"har": same, "last_value": same}, panel), 150, PARAMS, absolute=False)
    assert weights == pytest.approx([0.5, 0.5], abs=0.2)


def test_the_ensemble_is_not_worse_than_its_members_and_covers():
    panel = small_panel(n_steps=1200)
    last = 1200 - 1 - GATE
    members = _members(panel)
    walk = {n: _member(panel, n, f, range(last - 900, last + 1)) for n, f in members.items()}
    gate = {n: _member(panel, n, f, range(last, last + GATE + 1)) for n, f in members.items()}
    aligned = align(walk, gate, panel, CALENDAR, small_about(), 1)
    assembled = assemble(aligned, small_about(), PARAMS)
    facts = summary(assembled, aligned, small_about())
    assert assembled.best_member == "har"
    assert assembled.baseline == "last_value"
    assert facts["scores"][ENSEMBLE]["primary"] <= 1.02 * facts["scores"]["har"]["primary"]
    assert facts["coverage"]["overall"] == pytest.approx(0.8, abs=0.04)
    assert sum(facts["weights"].values()) == pytest.approx(1.0)


def test_the_member_is_shipped_when_it_beats_the_ensemble_on_the_gate():
    assert decide_shipped(np.array([2.0, 2.0]), np.array([1.0, 1.0]), "har")[0] == "har"
    assert decide_shipped(np.array([1.0, 1.0]), np.array([2.0, 2.0]), "har")[0] == ENSEMBLE
    name, reason = decide_shipped(np.full(2, np.nan), np.full(2, np.nan), "har")
    assert name == ENSEMBLE
    assert "unchecked" in reason


def test_history_holds_no_outcome_that_seen_until_does_not_know():
    panel = small_panel()
    aligned = _aligned(_members(panel), panel)
    assembled = assemble(aligned, small_about(), PARAMS)
    history = history_frame(assembled.candidates[ENSEMBLE], aligned)
    seen_until = panel.cutoff[int(aligned.origins[aligned.n_walk - 1])]
    known = history.drop_nulls("z")
    assert history["cutoff"].n_unique() == aligned.n_walk
    assert history["cutoff"].max() == seen_until
    assert (known["known_at"] <= seen_until).all()
    assert (known["known_at"] == known["event_time"].dt.offset_by("1d")).all()
    assert history.filter(pl.col("z").is_null())["event_time"].dt.offset_by("1d").min() > seen_until


def test_the_report_holds_the_forecast_that_was_issued():
    panel = small_panel()
    aligned = _aligned(_members(panel), panel)
    assembled = assemble(aligned, small_about(), PARAMS)
    frame = issued_frame(assembled.candidates[ENSEMBLE], aligned, small_about(), assembled.gate)
    assert frame["cutoff"].n_unique() == GATE
    row = frame.filter(pl.col("series_id") == "s1", pl.col("step") == 2).row(3, named=True)
    k = int(np.flatnonzero(assembled.gate)[3])
    assert row["y_hat"] == assembled.candidates[ENSEMBLE].issued.point[k, 1, 1]
    assert row["q_0.9"] == assembled.candidates[ENSEMBLE].issued.quantiles[k, 1, 1, 2]
    assert row["y"] == pytest.approx(panel.y[aligned.origins[k] + 2, 1])


def test_combining_ignores_what_a_weightless_member_does_not_say():
    panel = small_panel()
    aligned = _aligned(_members(panel), panel)
    aligned.z_hat[2] = np.nan
    weights = np.tile([0.5, 0.5, 0.0], (len(aligned.origins), 1))
    np.testing.assert_allclose(combine(aligned, weights), 0.5 * aligned.z_hat[0] + 0.5 * aligned.z_hat[1])
