"""A champion beyond a limit of `retrain` is degraded: the monitor says so, and so does doctor."""

from contextlib import nullcontext

import polars as pl
import pytest
import yaml
from homes import at_home, small_root, write_clean
from small_release import cutoff_at, small_rows

from deployments.ops.doctor import list_findings
from tasks.core.reports.monitor import MonitorReport
from tasks.core.reports.retrain import RetrainDecision, RetrainLimits
from tasks.edges.artifacts import read_report
from tasks.edges.registry import publish_rows_file
from tasks.monitor.__main__ import main
from tasks.promote.__main__ import main as promote
from tasks.retrain.__main__ import main as retrain

PROMOTED, NEWEST = 434, 470


@pytest.fixture
def root(tmp_path):
    """A champion of day 434; from then on the load is three times as high."""
    rows = small_rows(NEWEST + 1)
    late = pl.col("known_at") > cutoff_at(PROMOTED)
    worse = rows.with_columns(load=pl.when(late).then(pl.col("load") * 3).otherwise("load"))
    with at_home(tmp_path / "home"):
        gate = {"gate_steps": PROMOTED - 299}
        challenger = {"weights": {"ridge": 1.0}, **gate}
        limits = {"max_age_steps": 63, "max_error_ratio": 1.25, "min_coverage_frac": 0.7, "min_blocks": 5}
        root = small_root(
            tmp_path / "root", rows.filter(~late), challenger=challenger, baseline=gate, retrain=limits
        )
        promote(root, deliver=nullcontext)
        write_clean(root, worse)
        publish_rows_file("small", root / "data/clean/rows.parquet")
        yield root


def monitored(root):
    main(root)
    return read_report(root / MonitorReport.PATH, MonitorReport)


def find_forecasts(root):
    (root / "requirements.lock").touch()
    return next(found for found in list_findings(root) if found.what == "forecasts")


def test_a_forecast_far_worse_than_the_gates_is_degraded_for_monitor_doctor_and_retrain(root):
    report = monitored(root)
    assert report.verdict == "degraded"
    assert f"{report.champion.error_ratio:.2f} times the gate's, more than 1.25" in report.reason
    found = find_forecasts(root)
    assert not found.well
    assert "degraded" in found.found
    assert "`tidemill run`" in found.advice
    retrain(root)
    decision = read_report(root / RetrainDecision.PATH, RetrainDecision)
    assert (decision.due, decision.recipe) == (True, "window")
    assert all(reason.partition("; ")[0] in report.reason for reason in decision.reasons)
    assert "the alarm of the loss is open since 2021-" in decision.reason


def test_within_wider_limits_only_the_open_alarm_is_left(root):
    """One pair of numbers decides for monitor and retrain; a change of it makes a new report. The
    alarm of the loss has no such limit, and says since when."""
    before = monitored(root)
    params = root / "params.yaml"
    document = yaml.safe_load(params.read_text())
    document["retrain"] |= {"max_error_ratio": 1e6, "min_coverage_frac": 0.0}
    params.write_text(yaml.safe_dump(document))
    after = monitored(root)
    assert after.verdict == "degraded"
    assert after.reason.startswith("an alarm is open: ")
    assert "the loss is higher since 2021-03-15" in after.reason
    assert after.champion == before.champion
    assert "an alarm is open" in find_forecasts(root).found


def test_noise_that_doubles_opens_the_alarm_or_coverage_is_back_in_its_band(tmp_path):
    """P8 with a release as it is served: within 100 steps of the change."""
    promoted, changed, newest = 434, 454, 554
    calm, wild = (small_rows(newest + 1, noise=noise) for noise in (0.1, 0.2))
    late = pl.col("event_time") > cutoff_at(changed)
    with at_home(tmp_path / "home"):
        gate = {"gate_steps": promoted - 299}
        challenger = {"weights": {"ridge": 1.0}, **gate}
        seen = calm.filter(pl.col("known_at") <= cutoff_at(promoted))
        root = small_root(tmp_path / "root", seen, challenger=challenger, baseline=gate)
        promote(root, deliver=nullcontext)
        rows = pl.concat([calm.filter(~late), wild.filter(late)]).sort("series_id", "event_time")
        write_clean(root, rows)
        publish_rows_file("small", root / "data/clean/rows.parquet")
        report = monitored(root)
    loss, concept, coverage = report.service_levels
    assert (coverage.figure, coverage.level, coverage.unwatched) == ("coverage", 0.8, None)
    is_back = coverage.band_low <= coverage.points[-1].value <= coverage.band_high
    assert is_back or coverage.direction == "low"
    assert (loss.direction, concept.figure, concept.direction) == ("high", "concept", "high")
    assert report.verdict == "degraded"
    assert loss.since <= cutoff_at(changed + 20)


@pytest.mark.parametrize(
    ("ratio", "covered", "n"),
    [(1.25, 0.7, 0), (1.26, 0.7, 1), (1.0, 0.69, 1), (3.8, 0.17, 2), (None, None, 0), (None, 0.1, 1)],
)
def test_a_limit_is_passed_only_beyond_it_and_with_enough_independent_blocks(ratio, covered, n):
    limits = RetrainLimits(max_error_ratio=1.25, min_coverage_frac=0.7, min_blocks=20)
    assert len(limits.list_breaches(ratio, covered, 20)) == n
    assert limits.list_breaches(ratio, covered, 19) == {}
