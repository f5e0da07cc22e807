"""The loop replayed over history: nothing of the future, the stages' own decisions, resumable."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from html import escape as html_escape
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from homes import at_home
from reports import DRIFT, monitor_report, service_level
from simulate_runs import SECTIONS, build_simulated_root
from small_release import cutoff_at, small_rows
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.console.pages.simulate import write_simulation_page
from tasks.core.errors import FrameError, ParamsError
from tasks.core.reports.simulate import SimulationReport
from tasks.edges.artifacts import read_report
from tasks.retrain.journal import Retraining
from tasks.retrain.params import RetrainParams
from tasks.retrain.stage import decide_retraining
from tasks.simulate.policy import parse_policies, parse_policy
from tasks.simulate.stage import get_simulation_folder, simulate_policies

ROOT = Path(__file__).resolve().parents[2]
EVERY = 10
POLICIES = ("never", "always", "every:30", "loop")


def simulate(root, *policies, **options):
    return simulate_policies(
        policies or POLICIES, root=root, every_steps=EVERY, report=lambda _: None, **options
    )


def drop_costs(report):
    """The report without processor seconds, which no two runs share."""
    results = tuple(result.model_copy(update={"compute_s": 0.0}) for result in report.policies)
    return report.model_copy(update={"policies": results, "conclusion": ""})


def wild_rows(n_steps=420):
    """A history whose noise trebles in its middle, so that the decision has something to find."""
    rows = small_rows(n_steps, seed=3)
    rng = np.random.default_rng(7)
    noise = np.exp(rng.normal(0, 0.3, rows.height))
    is_wild = pl.col("event_time").is_between(cutoff_at(280), cutoff_at(330))
    return rows.with_columns(
        pl.when(is_wild).then(pl.col("load") * pl.Series(noise)).otherwise("load").alias("load")
    )


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The report on a history with a wild part, and its home."""
    folder = tmp_path_factory.mktemp("simulated")
    root = build_simulated_root(folder / "root", wild_rows())
    with at_home(folder / "home") as home:
        report = simulate(root)
        losses = pl.read_parquet(get_simulation_folder("small") / "losses.parquet")
        yield report, losses, root, home


def by_policy(report):
    return {result.policy: result for result in report.policies}


def test_never_always_and_every_train_exactly_as_often_as_they_say(simulated):
    results = by_policy(simulated[0])
    n_ticks = len(range(simulated[0].n_steps + 1)[::EVERY]) - 1
    assert {len(result.ticks) for result in results.values()} == {n_ticks + 1}
    assert results["never"].n_retrainings == results["never"].n_promotions == 0
    assert results["never"].compute_s == 0
    assert results["always"].n_retrainings == n_ticks
    assert results["every:30"].n_retrainings == n_ticks // 3
    trained = [tick.as_of for tick in results["every:30"].ticks[1:] if tick.verdict]
    assert {after - before for before, after in pairwise(trained)} == {timedelta(days=30)}


def test_the_loop_decides_as_the_stage_does_on_the_same_figures(simulated):
    result = by_policy(simulated[0])["loop"]
    assert {trigger for tick in result.ticks for trigger in tick.triggers} > {"age"}
    retrainings, params = [], RetrainParams(**SECTIONS["retrain"])
    assert 0 < result.n_retrainings < len(result.ticks) - 1
    for i, tick in enumerate(result.ticks[1:], start=1):
        figures = {
            name: getattr(tick, name)
            for name in ("digest", "version", "age_steps", "error_ratio", "coverage_frac")
        }
        drift = {**DRIFT, "n_alarmed": tick.n_alarmed, "is_drifting": tick.is_drifting}
        degraded = [
            service_level(
                n_blocks=tick.n_blocks, figure=name, direction="high" if name in tick.alarms else None
            )
            for name in ("loss", "concept")
        ]
        degraded += [service_level(0.8, direction="low") for name in tick.alarms if "coverage" in name]
        alarms = [{**level, "alarm_at": tick.as_of if level["direction"] else None} for level in degraded]
        found = monitor_report(figures, drift=drift, as_of=tick.as_of, service_levels=alarms)
        decision = decide_retraining(found, params, timedelta(days=1), retrainings)
        figures = (tick.due, tick.triggers, tick.recipe)
        assert (decision.due, decision.triggers, decision.recipe) == figures, tick
        assert tick.due == (tick.verdict is not None)
        if tick.due:
            after = result.ticks[i + 1].digest if i + 1 < len(result.ticks) else tick.digest
            retrainings.append(
                Retraining(
                    started_at=tick.as_of,
                    as_of=tick.as_of,
                    triggers=tick.triggers,
                    reason=tick.reason,
                    recipe=tick.recipe,
                    facts=decision.facts,
                    digest=tick.digest,
                    ended_at=tick.as_of,
                    new_digest=after,
                )
            )


@pytest.mark.parametrize(("day", "seed"), [(300, 0), (355, 1)])
def test_changing_the_future_leaves_every_past_decision_as_it_was(simulated, tmp_path, day, seed):
    report, losses, *_ = simulated
    now, rng = cutoff_at(day), np.random.default_rng(seed)
    rows = wild_rows()
    factor = pl.Series(np.exp(rng.normal(seed, 1, rows.height)))
    is_known = pl.col("known_at") <= now
    changed = rows.with_columns(
        pl.when(is_known).then("load").otherwise(pl.col("load") * factor).alias("load")
    )
    changed = changed.filter(is_known | pl.Series(rng.random(rows.height) < 0.9))
    with at_home(tmp_path / "home"):
        other = simulate(build_simulated_root(tmp_path / "root", changed), "every:30", "loop")
        other_losses = pl.read_parquet(get_simulation_folder("small") / "losses.parquet")
    for theirs in other.policies:
        ours = by_policy(report)[theirs.policy]
        past = [tick for tick in ours.ticks if tick.as_of <= now]
        assert len(past) > 5
        assert [tick for tick in theirs.ticks if tick.as_of <= now] == past
        assert theirs.ticks != ours.ticks
    matured = (pl.col("cutoff") <= now - timedelta(days=5)) & pl.col("policy").is_in(["every:30", "loop"])
    assert other_losses.filter(matured).equals(losses.filter(matured))


def test_a_simulation_that_was_killed_goes_on_to_the_same_report(simulated, tmp_path):
    report, losses, root, _ = simulated
    policies = ("never", "every:30", "loop")  # `always` trains at every tick
    code = (
        "import sys; from pathlib import Path; from tasks.simulate.stage import simulate_policies;"
        f"simulate_policies({policies!r}, root=Path(sys.argv[1]), every_steps={EVERY})"
    )
    home = tmp_path / "home"
    environment = {**os.environ, "TIDEMILL_HOME": str(home), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root)], env=environment, stdout=subprocess.DEVNULL
    )
    trainings = home / "simulate/small/state/trainings"
    deadline = time.monotonic() + 120
    while not trainings.exists() or len([p for p in trainings.iterdir() if p.name[0].isdigit()]) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in trainings.glob("[0-9]*/cost.json")}
    with at_home(home):
        resumed = simulate(root, *policies)
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert read_report(get_simulation_folder("small") / "report.json", SimulationReport) == resumed
        resumed_losses = pl.read_parquet(get_simulation_folder("small") / "losses.parquet")
    assert resumed_losses.equals(losses.filter(pl.col("policy").is_in(policies)))
    whole = by_policy(drop_costs(report))
    for result in drop_costs(resumed).policies:
        gains = tuple(gain for gain in whole[result.policy].gains if gain.opponent in policies)
        assert result == whole[result.policy].model_copy(update={"gains": gains})


def test_nothing_outside_of_the_simulation_is_written(simulated):
    *_, root, home = simulated
    assert {path.name for path in home.iterdir()} == {"simulate", "fits"}
    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} == {
        "params.yaml",
        "data/clean/rows.parquet",
    }


def test_policies_are_compared_on_the_same_cutoffs(simulated):
    report, losses, *_ = simulated
    assert len({result.n_known for result in report.policies}) == 1
    assert losses.group_by("policy").len()["len"].n_unique() == 1
    results = by_policy(report)
    never = {gain.opponent: gain for gain in results["never"].gains}
    for name in ("always", "every:30", "loop"):
        (back,) = [gain for gain in results[name].gains if gain.opponent == "never"]
        assert back.p == pytest.approx(1 - never[name].p) or back.gain_frac == 0
    assert report.best == min(report.policies, key=lambda r: (r.loss, r.n_retrainings)).policy
    assert f"`{report.best}` has the lowest rmse loss" in report.conclusion


def test_the_means_are_those_of_the_cutoffs(simulated):
    """By hand: every cutoff has the same number of outcomes but the last few."""
    report, losses, *_ = simulated
    for result in report.policies:
        of_years = sum(row.loss * row.n_known for row in result.by_year) / result.n_known
        assert result.loss == pytest.approx(of_years)
        assert losses.filter(policy=result.policy)["cutoff"].min() == report.since + timedelta(days=1)


def test_other_parameters_begin_with_an_empty_state(tmp_path):
    with at_home(tmp_path / "home"):
        lines = []
        for alpha in (0.05, 0.05, 0.1):
            promote = {**SECTIONS["promote"], "alpha": alpha}
            root = build_simulated_root(tmp_path / "root", promote=promote)
            simulate_policies(("never",), root=root, every_steps=50, report=lines.append)
        assert sum(line.startswith("trained at") for line in lines) == 2


def test_the_page_has_every_policy_its_figures_and_one_chart(simulated):
    report = simulated[0]
    html = write_simulation_page(report).read_text()
    assert html.count("<img alt=") == 1
    for result in report.policies:
        assert f"{result.loss:.4g}" in html
        assert f"{result.policy}: {1 + result.n_retrainings}" in html
    assert html_escape(report.conclusion) in html
    assert "http://" not in html.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "sometimes"], "'sometimes' is no policy of retraining"),
        (["--from", "soon"], "'soon' is not a time"),
        (["--every", "0"], "greater than or equal to 1"),
    ],
)
def test_the_command_refuses_what_it_cannot_do_with_one_message(arguments, message):
    done = CliRunner().invoke(app, ["simulate", *arguments], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize("name", ["sometimes", "every", "every:0", "every:-3", "every:x", "never:3"])
def test_an_unknown_policy_is_refused_with_the_forms(name):
    with pytest.raises(ParamsError, match="is no policy of retraining"):
        parse_policy(name)


def test_no_policy_and_a_repeated_one_are_refused():
    with pytest.raises(ParamsError, match="No policy"):
        parse_policies(())
    with pytest.raises(ParamsError, match="given twice"):
        parse_policies(("loop", "never", "loop"))


def test_a_start_outside_of_what_can_be_simulated_is_refused_with_the_range(tmp_path):
    root = build_simulated_root(tmp_path / "root")
    with at_home(tmp_path / "home"):
        for since in (cutoff_at(100), cutoff_at(419), datetime(2030, 1, 1, tzinfo=UTC)):
            with pytest.raises(
                ParamsError, match=r"the steps before 2020-07-2\d, and the last outcome is of"
            ):
                simulate(root, "never", since=since)


def test_a_history_that_is_too_short_is_refused(tmp_path):
    root = build_simulated_root(tmp_path / "root", small_rows(200))
    with at_home(tmp_path / "home"), pytest.raises(ParamsError, match="needs 204, then 5 more"):
        simulate(root, "never")


def test_without_rows_it_says_which_stage_to_run(tmp_path):
    root = build_simulated_root(tmp_path / "root")
    (root / "data/clean/rows.parquet").unlink()
    with at_home(tmp_path / "home"), pytest.raises(FrameError, match="is not there"):
        simulate(root, "never")
