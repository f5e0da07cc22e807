import json

import numpy as np
import polars as pl
import pytest
from members import GATE, PARAMS, aligned_of, noisy_members, small_members
from panels import small_panel

from deployments.console.charts.ensemble import draw_ensemble
from tasks.core.errors import FoldError
from tasks.core.reports.ensemble import EnsembleReport
from tasks.edges.artifacts import read_report, write_report
from tasks.ensemble.issue import build_issued_frame
from tasks.ensemble.stage import ENSEMBLE, build_ensemble
from tasks.ensemble.summary import build_summary
from tasks.ensemble.unsealed_release import build_history_frame


def test_truth_and_availability_come_from_the_panel():
    panel = small_panel()
    aligned = aligned_of(small_members(panel), panel)
    assert aligned.z_hat.shape == (3, 201 + GATE, 2, 3)
    k = 50
    np.testing.assert_array_equal(aligned.z[k, :, 1], panel.z[aligned.origins[k] + 2])
    assert (aligned.known_k[k] == k + np.arange(1, 4)).all()
    assert not aligned.is_known_by(k)[k:].any()


def test_a_stride_makes_an_outcome_known_at_the_next_cutoff_on_it():
    panel = small_panel()
    aligned = aligned_of(small_members(panel), panel, stride=5)
    assert (aligned.known_k[3] == 4).all()
    assert aligned.learns[: aligned.n_walk].all()
    assert np.flatnonzero(aligned.learns[aligned.n_walk :]).tolist() == list(range(4, GATE, 5))


def test_the_gates_rows_choose_nothing():
    """Whatever comes true after seen_until: combiner, weights, best member and what is shipped
    stay."""
    panel = small_panel()
    aligned = aligned_of(small_members(panel), panel)
    late = aligned.known_k >= aligned.n_walk
    spoilt = aligned.__class__(
        **{**aligned.__dict__, "z": np.where(late, 1e3, aligned.z), "y": np.where(late, 1e3, aligned.y)}
    )
    one, other = (build_ensemble(a, PARAMS) for a in (aligned, spoilt))
    assert one.choice == other.choice
    assert (one.shipped, one.baseline) == (other.shipped, other.baseline)
    assert one.candidates[ENSEMBLE].combination == other.candidates[ENSEMBLE].combination
    np.testing.assert_array_equal(one.candidates[ENSEMBLE].z_hat, other.candidates[ENSEMBLE].z_hat)


def test_the_ensemble_is_not_worse_than_its_members_and_covers():
    panel = small_panel(n_steps=1200)
    aligned = aligned_of(small_members(panel), panel, n_walk=901)
    assembled = build_ensemble(aligned, PARAMS)
    facts = build_summary(assembled, aligned).render()
    assert assembled.choice.best_member == "har"
    assert assembled.baseline == "last_value"
    assert facts["scores"][ENSEMBLE]["primary"] <= 1.02 * facts["scores"]["har"]["primary"]
    assert facts["coverage"]["overall"] == pytest.approx(0.8, abs=0.04)
    assert sum(facts["weights"].values()) == pytest.approx(1.0)


def test_a_member_that_was_cut_short_is_compared_on_the_outcomes_that_all_speak_for():
    panel = small_panel()
    aligned = aligned_of(small_members(panel), panel)
    cut = aligned.z_hat.copy()
    cut[2, :100] = np.nan
    assembled = build_ensemble(aligned.__class__(**{**aligned.__dict__, "z_hat": cut}), PARAMS)
    facts = build_summary(assembled, aligned).render()
    assert facts["left_out"] == []
    assert {facts["scores"][m]["n"] for m in facts["scores"]} == {facts["n_outcomes_shared"]}
    assert facts["scores"]["last_value"]["primary"] == pytest.approx(
        np.nanmean(assembled.candidates["last_value"].loss[100 : aligned.n_walk])
    )
    cut[2, :180] = np.nan
    facts = build_summary(
        build_ensemble(aligned.__class__(**{**aligned.__dict__, "z_hat": cut}), PARAMS),
        aligned,
    ).render()
    assert facts["left_out"] == ["noise"]
    assert facts["scores"]["noise"]["n"] < facts["n_outcomes_shared"] == facts["scores"]["har"]["n"]


def test_history_holds_no_outcome_that_seen_until_does_not_know():
    panel = small_panel()
    aligned = aligned_of(small_members(panel), panel)
    assembled = build_ensemble(aligned, PARAMS)
    history = build_history_frame(assembled.candidates[ENSEMBLE], assembled.issuer)
    seen_until = panel.cutoff[int(aligned.origins[aligned.n_walk - 1])]
    known = history.drop_nulls("z")
    assert history["cutoff"].n_unique() == aligned.n_walk
    assert history["cutoff"].max() == seen_until
    assert (known["known_at"] <= seen_until).all()
    assert (known["known_at"] == known["event_time"].dt.offset_by("1d")).all()
    assert history.filter(pl.col("z").is_null())["event_time"].dt.offset_by("1d").min() > seen_until


def test_the_report_holds_the_forecast_that_was_issued():
    panel = small_panel()
    aligned = aligned_of(small_members(panel), panel)
    assembled = build_ensemble(aligned, PARAMS)
    frame = build_issued_frame(ENSEMBLE, assembled.candidates[ENSEMBLE].issued, aligned, assembled.gate)
    assert frame["cutoff"].n_unique() == GATE
    row = frame.filter(pl.col("series_id") == "s1", pl.col("step") == 2).row(3, named=True)
    k = int(np.flatnonzero(assembled.gate)[3])
    assert row["y_hat"] == assembled.candidates[ENSEMBLE].issued.point[k, 1, 1]
    assert row["q_0.9"] == assembled.candidates[ENSEMBLE].issued.further[k, 1, 1, 2]
    assert row["y"] == pytest.approx(panel.y[aligned.origins[k] + 2, 1])


def test_the_report_says_what_was_compared_where_and_what_each_member_brings(tmp_path):
    panel = small_panel(n_steps=700)
    aligned = aligned_of(
        noisy_members(panel, {"last_value": 0.9, "har": 0.9, "ridge": 0.9}), panel, n_walk=501
    )
    assembled = build_ensemble(aligned, PARAMS)
    facts = build_summary(assembled, aligned).render()
    selection = facts["selection"]
    assert [row["combiner"] for row in selection["combiners"] if row["chosen"]] == [facts["combiner"]]
    assert sorted(losses := [row["loss"] for row in selection["combiners"]]) == losses
    assert {row["combiner"] for row in selection["combiners"] if row["not_servable"]} == {
        "stacking_trees",
        "per_series",
    }
    assert (
        facts["scored_from"][0]
        < selection["fit_until"][:10]
        < selection["until"][:10]
        == facts["seen_until"][:10]
    )
    # Independent errors: a third of the averaging gone
    assert all(brought > 0.02 for brought in facts["contribution_frac"].values())
    error = (aligned.z - aligned.z_hat)[:, assembled.scored].reshape(3, -1)
    # By name: har, last_value, ridge
    expected = np.corrcoef(error[:, np.isfinite(error).all(axis=0)])[np.ix_([1, 0, 2], [1, 0, 2])]
    np.testing.assert_allclose(list(facts["correlation"].values()), expected)
    assert facts["gains"]["best_member"]["gain_frac"] == min(
        c["gain_frac"] for c in facts["comparisons"].values()
    )
    assert "below HAR" in facts["gains"]["text"]
    by_series = facts["gains_by_series"]["series"]
    assert by_series["s0"]["gain_frac"] == pytest.approx(
        1 - facts["scores"][ENSEMBLE]["by_series"]["s0"] / facts["scores"]["har"]["by_series"]["s0"]
    )
    assert all(gain["p"] < 0.01 for gain in by_series.values())
    report = EnsembleReport.parse(json.loads(json.dumps(facts, sort_keys=True)), "summary.json")
    one, two = (draw_ensemble(report) for _ in range(2))
    assert one.content == two.content


def test_a_member_that_says_nothing_stops_the_stage_by_name():
    panel = small_panel()
    aligned = aligned_of(small_members(panel), panel)
    aligned.z_hat[2] = np.nan
    with pytest.raises(FoldError, match=r"noise has no forecast.*train@noise"):
        build_ensemble(aligned, PARAMS)


def test_its_report_is_read_as_it_was_written_and_one_of_before_too(tmp_path):
    panel = small_panel()
    aligned = aligned_of(small_members(panel), panel)
    report = build_summary(build_ensemble(aligned, PARAMS), aligned)
    write_report(tmp_path / "summary.json", report)
    assert read_report(tmp_path / "summary.json", EnsembleReport) == report
    before = report.render()
    before["brings_frac"] = before.pop("contribution_frac")
    assert EnsembleReport.parse(before, "summary.json") == report
