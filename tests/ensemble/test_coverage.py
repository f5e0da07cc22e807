"""The report of the intervals, and intervals by parameter from end to end: what the stage says
is what the release answers."""

import numpy as np
import polars as pl
import pytest
from members import GATE, PARAMS, aligned_of, member, small_members
from panels import small_panel

from deployments.console.charts.ensemble import draw_intervals
from tasks.core import scores
from tasks.core.errors import ParamsError
from tasks.core.reports.ensemble import EnsembleReport
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.issue import build_issued_frame, build_issuer, compute_regimes
from tasks.ensemble.report import compute_confidence_set
from tasks.ensemble.stage import ENSEMBLE, build_ensemble
from tasks.ensemble.summary import build_summary
from tasks.ensemble.unsealed_release import build_history_frame

BY = {"by_year": "year", "by_step": "step", "by_series": "series_id", "by_regime": "regime"}


def _assembled(**changes):
    panel = small_panel(n_steps=500)
    aligned = aligned_of(small_members(panel), panel, n_walk=350)
    params = PARAMS.model_copy(update={"regime_column": "z_mean_5", **changes})
    return aligned, build_ensemble(aligned, params)


@pytest.fixture(scope="module")
def reported():
    aligned, assembled = _assembled()
    return aligned, assembled, build_summary(assembled, aligned).render()


def test_each_part_has_the_scores_of_its_own_forecasts(reported):
    aligned, assembled, facts = reported
    frame = build_issued_frame(
        ENSEMBLE,
        assembled.candidates[ENSEMBLE].issued,
        aligned,
        assembled.scored | assembled.gate,
    )
    of = compute_regimes(aligned, assembled.issuer.regime)
    cutoffs = aligned.panel.cutoff.gather(aligned.origins)
    where = (
        cutoffs.search_sorted(frame["cutoff"]).to_numpy(),
        frame["series_id"].str.strip_prefix("s").cast(pl.Int64).to_numpy(),
    )
    frame = frame.with_columns(regime=pl.Series(of[where]), year=pl.col("cutoff").dt.year()).drop_nulls(
        ["y", "q_0.1"]
    )
    seen_until = cutoffs[aligned.n_walk - 1]
    for part, key in BY.items():
        rows = facts["coverage"]["tables"][part]
        own = frame if part == "by_year" else frame.filter(pl.col("cutoff") <= seen_until)
        assert sorted(row[key] for row in rows) == sorted(own[key].unique())
        for row in rows:
            y, low, middle, high = (
                own.filter(pl.col(key) == row[key]).select("y", "q_0.1", "q_0.5", "q_0.9").to_numpy().T
            )
            expected = {
                "n": len(y),
                "coverage_frac": scores.coverage(y, low, high),
                "width": (high - low).mean(),
                "interval_score": scores.interval_score(y, low, high, 0.8).mean(),
                "crps": (
                    scores.crps_from_quantiles(
                        y, np.column_stack([low, middle, high]), (0.1, 0.5, 0.9)
                    ).mean()
                ),
            }
            assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_regimes_are_parted_by_the_burn_in_alone(reported):
    aligned, assembled, facts = reported
    burn_in = int(np.flatnonzero(assembled.scored)[0])
    column = aligned.panel.x[aligned.origins[:burn_in], :, aligned.panel.schema.index("z_mean_5")]
    assert facts["coverage"]["regime"]["above"] == pytest.approx(
        np.quantile(column.astype(float), [1 / 3, 2 / 3])
    )


def test_the_report_says_who_may_be_the_best(reported):
    facts = reported[2]
    assert {"ensemble", "har"} & set(facts["confidence_set"]["members"])
    assert "noise" not in facts["confidence_set"]["members"]
    assert facts["comparisons"]["noise"]["p_diebold_mariano"] < 0.01
    assert compute_confidence_set({"a": np.full((5, 1, 1), np.nan), "b": np.ones((5, 1, 1))}, 1) is None


def test_the_chart_is_drawn(reported):
    assert len(draw_intervals(EnsembleReport.parse(reported[2], "summary.json")).content) > 10_000


@pytest.mark.parametrize(
    "changes",
    [
        {"intervals": "split"},
        {"intervals": "block", "block_cutoffs": 3},
        {"interval_groups": "regime"},
        {"interval_groups": "all"},
    ],
)
def test_every_way_covers(changes):
    aligned, assembled = _assembled(**changes)
    facts = build_summary(assembled, aligned).render()["coverage"]
    assert facts["overall"] == pytest.approx(0.8, abs=0.06)
    assert facts["method"] == changes.get("intervals", "adaptive")


def _with_quantile_members(panel, n_walk=300):
    """Members of the quantiles 0.1 and 0.9, the second by two models: half a unit too close to
    the centre."""
    last = len(panel.event_time) - 1 - GATE
    steps = np.arange(1, 4)
    centre = lambda o, s: 10 + 0.7**steps * (panel.z[o, s] - 10)  # noqa: E731  (one line for one line)
    values = small_members(panel) | {
        "low": lambda o, s: centre(o, s) - 0.8,
        "high": lambda o, s: centre(o, s) + 0.6,
        "higher": lambda o, s: centre(o, s) + 1.0,
    }
    walk = {n: member(panel, n, f, range(last - n_walk + 1, last + 1)) for n, f in values.items()}
    gate = {n: member(panel, n, f, range(last, last + GATE + 1)) for n, f in values.items()}
    return align_forecasts(walk, gate, panel, 1, {"low": 0.1, "high": 0.9, "higher": 0.9})


def test_cqr_starts_from_the_mean_of_the_members_own_quantiles_which_have_no_say_in_the_point():
    panel = small_panel(n_steps=500)
    aligned = _with_quantile_members(panel)
    assert aligned.models == ("last_value", "har", "noise")
    assert aligned.quantile_members == {"0.1": ("low",), "0.9": ("high", "higher")}
    issuer = build_issuer(aligned, PARAMS.model_copy(update={"intervals": "cqr"}), 50)
    z_hat = aligned.z_hat[1]
    base = aligned.build_base_quantiles((0.1, 0.5, 0.9), z_hat)
    np.testing.assert_allclose(base[..., 2] - base[..., 0], 1.6)
    np.testing.assert_array_equal(base[..., 1], z_hat)
    issued = issuer.predict_quantiles(z_hat)
    inside = (aligned.z >= issued.further[..., 0]) & (aligned.z <= issued.further[..., -1])
    assert inside[60:][np.isfinite(aligned.z[60:])].mean() == pytest.approx(0.8, abs=0.04)
    np.testing.assert_array_equal(
        issued.point, build_issuer(aligned, PARAMS, 50).predict_quantiles(z_hat).point
    )
    assembled = build_ensemble(aligned, issuer.params)
    history = build_history_frame(assembled.candidates["har"], issuer)
    assert (history["q_0.9"] - history["q_0.1"]).to_numpy() == pytest.approx(1.6)
    low, high = build_summary(assembled, aligned).render()["coverage"]["starts_from"]
    assert (low["members"], high["members"]) == (["low"], ["high", "higher"])
    y, own = aligned.y[assembled.scored], aligned.quantile_forecasts["0.1"][assembled.scored]
    assert low["own_below_frac"] == pytest.approx((y <= own).mean())  # the target has no transform
    assert low["own_below_frac"] > 0.15  # too close to the centre, and put right:
    assert low["issued_below_frac"] == pytest.approx(0.1, abs=0.02)
    assert low["issued_pinball"] < low["own_pinball"] == pytest.approx(scores.pinball(y, own, 0.1).mean())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"intervals": "cqr"}, "no model forecasts one of the quantiles"),
        ({"intervals": "block", "interval_groups": "all"}, "needs a pool for each series"),
        ({"interval_groups": "regime", "regime_column": None}, "distinguish none"),
        ({"regime_column": "z_men_5"}, "Did you mean 'z_mean_5'"),
    ],
)
def test_intervals_that_cannot_be_had_say_what_is_missing(changes, says):
    with pytest.raises(ParamsError, match=says):
        _assembled(**changes)
