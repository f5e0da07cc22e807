"""What counts, what waits, what is left out."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from homes import at_home, small_root, write_clean
from reports import gate_decision
from small_release import START, cutoff_at, small_about, small_rows

from tasks.core.calendar import build_calendar
from tasks.core.reports.monitor import MonitorReport
from tasks.core.reports.promote import GateDecision
from tasks.edges.artifacts import read_report, write_report
from tasks.edges.registry import apply_promotion
from tasks.monitor.__main__ import main
from tasks.monitor.outcome import build_outcomes, compute_figures

ABOUT = small_about()
ROWS = small_rows(60)


def answer(day, digest="d", y_hat=100.0, width=20.0):
    """A forecast of `north`, five steps from *day* on."""
    return pl.DataFrame(
        {
            "series_id": "north",
            "cutoff": cutoff_at(day),
            "step": range(1, 6),
            "event_time": [START + timedelta(days=day + s) for s in range(1, 6)],
            "model": "m",
            "y_hat": y_hat,
            "digest": digest,
            "q_0.1": y_hat - width,
            "q_0.5": y_hat,
            "q_0.9": y_hat + width,
        }
    )


def joined(*answers, rows=ROWS, seen_until=None):
    return build_outcomes(pl.concat(answers), rows, ABOUT, build_calendar(ABOUT), seen_until or {})


def test_releases_are_told_apart():
    found = joined(answer(20), answer(20, digest="e", y_hat=90.0))
    assert [row["digest"] for row in compute_figures(found, ["digest"])] == ["d", "e"]


def test_steps_that_the_release_was_fitted_on_say_nothing():
    found = joined(answer(20), answer(40), seen_until={"d": cutoff_at(30)})
    (overall,) = compute_figures(found, [])
    assert (overall["n_steps"], overall["n_seen"], overall["n_known"]) == (10, 5, 5)


def test_a_value_that_was_taken_back_opens_its_step_again():
    taken_back = ROWS.filter(
        (pl.col("series_id") == "north") & (pl.col("event_time") == START + timedelta(days=23))
    ).with_columns(pl.lit(None, dtype=pl.Float64).alias("load"), pl.col("known_at") + timedelta(days=2))
    (overall,) = compute_figures(joined(answer(20), rows=pl.concat([ROWS, taken_back])), [])
    assert (overall["n_open"], overall["n_known"], overall["n_corrected"]) == (1, 4, 0)


def test_nothing_forecast_gives_counts_of_nought():
    (overall,) = compute_figures(
        build_outcomes(answer(20).clear(), ROWS, ABOUT, build_calendar(ABOUT), {}), []
    )
    assert (overall["n_steps"], overall["n_known"], overall["loss"]) == (0, 0, None)


@pytest.mark.parametrize("with_champion", [True, False])
def test_nothing_to_judge_is_said_and_costs_no_heavy_import(tmp_path, with_champion):
    with at_home(tmp_path / "home"):
        root = small_root(tmp_path / "root", small_rows(400))
        if with_champion:
            apply_promotion("small", root / "models/release", gate_decision(as_of=cutoff_at(399)))
        main(root)
        report = read_report(root / MonitorReport.PATH, MonitorReport)
    assert report.verdict == "insufficient"
    assert (
        "0 steps that the champion forecast since its promotion" if with_champion else "no champion"
    ) in report.reason
    assert sorted(path.name for path in (root / MonitorReport.PATH).parent.iterdir()) == ["report.json"]


@pytest.mark.parametrize(
    ("judged_days_later", "dataset", "age_steps"), [(0, "small", 30), (20, "small", 10), (20, "other", 30)]
)
def test_age_counts_from_the_last_training_that_was_judged(tmp_path, judged_days_later, dataset, age_steps):
    """A challenger that lost on newer data says that the champion is not out of date; one of
    another dataset says nothing."""
    rows = small_rows(400)
    with at_home(tmp_path / "home"):
        root = small_root(tmp_path / "root", rows.filter(pl.col("event_time") < START + timedelta(days=370)))
        apply_promotion(
            "small", root / "models/release", gate_decision(as_of=datetime(2021, 1, 1, tzinfo=UTC))
        )
        judged = START + timedelta(days=370 + judged_days_later)
        write_report(root / GateDecision.PATH, gate_decision(challenger_as_of=judged, dataset=dataset))
        write_clean(root, rows)
        main(root)
        assert read_report(root / MonitorReport.PATH, MonitorReport).champion.age_steps == age_steps


def test_served_forecasts_are_judged_in_units_of_the_scale_that_their_cutoff_knew():
    about = small_about(primary_score="mase")
    found = build_outcomes(answer(30), ROWS, about, build_calendar(about), {}).filter(
        pl.col("y").is_not_null()
    )
    past = ROWS.filter(pl.col("series_id") == "north", pl.col("known_at") <= cutoff_at(30)).sort("event_time")
    scale = past[about.target.column].diff(about.season_steps).abs().mean()
    assert found.height == 5
    assert (found["loss"] - found["error"].abs() / scale).abs().max() < 1e-12
