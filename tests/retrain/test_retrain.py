"""Due or not, and why."""

import itertools
import random
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from homes import at_home
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import AS_OF, DRIFT, monitor_report, service_level

from tasks.core.reports.monitor import MonitorReport
from tasks.core.reports.retrain import RetrainDecision, RetrainFacts
from tasks.edges.artifacts import read_report, write_report
from tasks.retrain.journal import (
    Retraining,
    RetrainOutcome,
    RetrainRequest,
    build_start,
    read_retrainings,
    write_end,
    write_failure,
    write_start,
)
from tasks.retrain.params import RetrainParams
from tasks.retrain.recipe import decide_recipe
from tasks.retrain.stage import decide_retraining, list_changed_columns

PARAMS = RetrainParams(max_age_steps=63, max_error_ratio=1.25, min_coverage_frac=0.7)


def report(drift=None, as_of=AS_OF, levels=None, **champion):
    levels = [service_level()] if levels is None else levels
    return monitor_report(champion, dataset="tides", drift=drift, as_of=as_of, service_levels=levels)


def decide(found, retrainings=(), changed_columns=(), *, running=False, has_search=False, **params):
    return decide_retraining(
        found,
        PARAMS.model_copy(update=params),
        timedelta(days=1),
        retrainings,
        changed_columns,
        is_last_running=running,
        has_search=has_search,
    )


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"age_steps": 64}, "64 steps of data"),
        ({"error_ratio": 1.3}, "1.30 times the gate's"),
        ({"coverage_frac": 0.65}, "65% of outcomes"),
    ],
)
def test_each_limit_alone_makes_it_due_and_is_named(changed, word):
    decision = decide(report(**changed))
    assert decision.due
    assert len(decision.reasons) == 1
    assert word in decision.reason


def test_at_the_limit_it_is_not_due():
    decision = decide(report(age_steps=63, error_ratio=1.25, coverage_frac=0.7))
    assert (decision.due, decision.reasons) == (False, ())


def test_all_reasons_are_named():
    assert len(decide(report(age_steps=99, error_ratio=9.0, coverage_frac=0.1)).reasons) == 3


def test_too_little_data_is_no_reason():
    decision = decide(report(error_ratio=None, coverage_frac=None, n_known=3))
    assert not decision.due
    assert "too few have an outcome" in decision.reason


def test_without_a_champion_nothing_is_due():
    decision = decide(monitor_report())
    assert (decision.due, decision.facts) == (False, RetrainFacts())


def test_drift_is_a_reason_only_while_the_loss_is_higher():
    alone = decide(report(drift=DRIFT, error_ratio=1.05))
    assert not alone.due
    assert "30 of 40 inputs drift, which alone is no reason" in alone.reason
    with_loss = decide(report(drift=DRIFT, error_ratio=1.2))
    assert (with_loss.due, with_loss.triggers) == (True, ("drift",))
    calm = {**DRIFT, "is_drifting": False}
    assert not decide(report(drift=calm, error_ratio=1.2)).due


@pytest.fixture
def home(tmp_path):
    with at_home(tmp_path / "home"):
        yield


def run_ticks(ratios, digest_after=lambda before, n: before, every=timedelta(hours=6), **params):
    """Decide at each ratio and retrain whenever it is due; the retrainings."""
    digest, n = "d", 0
    for tick, ratio in enumerate(ratios):
        found = report(as_of=AS_OF + tick * every, error_ratio=ratio, digest=digest)
        decision = decide(found, read_retrainings("tides"), **params)
        if decision.due:
            n += 1
            started = write_start(decision, None, digest)
            digest = digest_after(digest, n)
            write_end("tides", started, digest, "keep: r")
    return read_retrainings("tides")


def test_a_signal_that_oscillates_starts_one_retraining_in_vain(home):
    """The gate keeps the champion, so the same figure is no reason again."""
    draw = random.Random(1)
    done = run_ticks([1.24 if tick % 2 else 1.26 + 0.05 * draw.random() for tick in range(1000)])
    assert [r.triggers for r in done] == [("error",)]
    assert (done[0].new_digest, done[0].facts.error_ratio >= 1.26) == (done[0].digest, True)


def test_a_signal_that_stays_bad_is_bounded_by_cool_down_and_budget(home):
    """Each retraining brings another champion, and none helps: 250 days of ticks."""
    done = run_ticks([1.5] * 1000, digest_after=lambda _, n: f"d{n}", cooldown_steps=2, max_per_week=2)
    times = [r.as_of for r in done]
    assert all(b - a >= timedelta(days=2) for a, b in itertools.pairwise(times))
    assert all(c - a >= timedelta(days=7) for a, c in zip(times, times[2:], strict=False))
    assert len(done) == 2 * 36
    assert all(r.new_digest not in {None, r.digest} for r in done)


def test_ten_triggers_at_once_start_one_retraining(home):
    assert len(run_ticks([2.0] * 10, every=timedelta(0), digest_after=lambda _, n: f"d{n}")) == 1


def test_a_figure_that_has_become_worse_is_a_reason_again(home):
    done = run_ticks([1.3] * 100 + [1.5] * 100)
    assert [round(r.facts.error_ratio, 1) for r in done] == [1.3, 1.5]


def test_a_retraining_that_failed_is_tried_again_after_the_cool_down(home):
    started = write_start(decide(report(error_ratio=1.5)), None, "d")
    write_failure("tides", started, "Stage 'train' ended with code 1.")
    (failed,) = read_retrainings("tides")
    assert (failed.new_digest, failed.error) == (None, "Stage 'train' ended with code 1.")
    soon = decide(report(error_ratio=1.5, as_of=AS_OF + timedelta(days=4)), [failed])
    assert (soon.due, soon.triggers) == (False, ())
    assert "held back, the last retraining is 4 steps of data ago" in soon.held
    assert "1.50 times the gate's" in soon.reason
    assert decide(report(error_ratio=1.5, as_of=AS_OF + timedelta(days=5)), [failed]).due


def test_a_retraining_that_was_interrupted_is_tried_once_more_as_it_began(home):
    started = write_start(decide(report(error_ratio=1.5)), None, "d")
    assert read_retrainings("tides")[-1].is_running
    now = decide(report(error_ratio=1.5), [started], running=True)
    assert (now.due, "still runs" in now.held) == (False, True)
    again = decide(report(), [started])
    assert (again.due, again.triggers, again.recipe) == (True, ("interrupted",), "window")
    second = write_start(again, None, "d")
    third = decide(report(error_ratio=1.5), [started, second])
    assert (third.due, "cooldown" in third.held) == (False, True)


def test_a_line_that_a_kill_cut_off_is_as_not_written(home, tmp_path):
    request = RetrainRequest(by="operator", reason="wanted by hand")
    started = write_start(decide(report(error_ratio=1.5)), request, "d")
    path = tmp_path / "home/retrain/tides.jsonl"
    path.write_bytes(path.read_bytes() + b'{"started_at": "20')
    assert read_retrainings("tides") == [started]
    assert (started.triggers, started.reason) == (("error", "operator"), "wanted by hand")
    write_end("tides", started, "e", "promote: r")
    (ended,) = read_retrainings("tides")
    assert (ended.digest, ended.new_digest) == ("d", "e")
    assert ended.ended_at is not None


def test_few_independent_blocks_are_no_reason_and_an_alarm_is_one():
    few = report(error_ratio=9.0, coverage_frac=0.1, levels=[service_level(n_blocks=19)])
    assert not decide(few).due
    assert "over 19 independent blocks" in decide(few).reason
    alarm = {"direction": "high", "alarm_at": AS_OF}
    levels = [service_level(n_blocks=19, **alarm), service_level(0.8, **{**alarm, "direction": "low"})]
    decision = decide(report(levels=levels))
    assert decision.triggers == ("error", "coverage")
    assert "the alarm of the 80% coverage is open since 2024-02-01" in decision.reason
    good = [service_level(direction="low"), service_level(0.8, direction="high")]
    assert not decide(report(levels=good)).due


def test_a_ratio_of_overlapping_outcomes_by_luck_is_rarely_a_reason():
    """Losses of one law before and after: blocks of 5 equal steps, each block's mean lognormal."""
    rng = np.random.default_rng(4)
    losses = rng.lognormal(0.0, 0.5, (2000, 120))
    ratio = losses[:, :20].mean(axis=1) / losses[:, 20:].mean(axis=1)
    few = losses[:, :2].mean(axis=1) / losses[:, 20:].mean(axis=1)
    breached = [np.mean([bool(PARAMS.list_breaches(r, None, 20)) for r in found]) for found in (ratio, few)]
    assert breached[0] < 0.06
    assert breached[1] > 0.15  # 2 blocks: 10 steps, as `monitor.min_rows` of two series


def test_a_changed_column_is_a_reason_until_a_training_has_seen_it(home):
    before = {"a": pl.Float64(), "b": pl.Int32(), "c": pl.String(), "e": pl.Null()}
    after = {"a": pl.String(), "b": pl.Float64(), "d": pl.Float64(), "e": pl.Float64()}
    changes = list_changed_columns(before, after)
    assert changes == ["a: number -> String", "-c", "+d"]
    first = decide(report(), changed_columns=changes)
    assert (first.triggers, first.recipe) == (("schema",), "full")
    write_end("tides", write_start(first, None, "d"), "d", "keep: r")
    later = report(as_of=AS_OF + timedelta(days=30))
    assert not decide(later, read_retrainings("tides"), changes).due
    assert decide(later, read_retrainings("tides"), [*changes, "+f"]).due


def make_retraining(new_digest, recipe="full", gain=None, **changes):
    outcome = None if gain is None else RetrainOutcome(as_of=AS_OF, n_cutoffs=100, gain_frac=gain, p=0.5)
    facts = RetrainFacts(digest="d", error_ratio=1.0)
    found = Retraining(started_at=AS_OF, as_of=AS_OF, triggers=("age",), reason="r", facts=facts, digest="d")
    update = {"ended_at": AS_OF, "new_digest": new_digest, "recipe": recipe, "outcome": outcome}
    return found.model_copy(update={**update, **changes})


@pytest.mark.parametrize(
    ("triggers", "brought", "digest", "recipe"),
    [
        (["age"], [], "d", "full"),
        (["error"], [], "d", "window"),
        (["coverage", "age"], [("e", "full", 0.1)], "e", "window"),
        (["age"], [("e", "window", None)], "e", "window"),  # as the champion was trained
        (["age"], [("d", "full", None)], "d", "full"),
        (["age"], [("d", "full", None), ("d", "window", None)], "d", "search"),
        (["age"], [("d", "full", None), ("e", "full", -0.1)], "e", "search"),  # promoted, and did not help
        (["error"], [("d", "full", None), ("e", "full", 0.1)], "e", "window"),
    ],
)
def test_the_recipe_follows_from_the_triggers_and_what_the_last_ones_brought(
    triggers, brought, digest, recipe
):
    retrainings = [make_retraining(*each) for each in brought]
    decided = decide_recipe(triggers, retrainings, digest, 2, has_search=True)
    assert decided.recipe == recipe
    assert decided.reason
    unsearched = decide_recipe(triggers, retrainings, digest, 2, has_search=False)
    assert unsearched.recipe == recipe if recipe != "search" else unsearched.recipe in {"full", "window"}


@settings(max_examples=6, deadline=None)
@given(
    ratios=st.lists(st.floats(0.5, 3.0), min_size=40, max_size=40),
    covered=st.lists(st.floats(0.4, 1.0), min_size=40, max_size=40),
    ages=st.lists(st.integers(0, 200), min_size=40, max_size=40),
)
def test_any_thousand_ticks_of_all_triggers_start_at_most_the_stated_number(ratios, covered, ages):
    """k = 1 + log(worst / first) / log(1.1) for each figure, as the docstring states; age apart."""
    retrainings = []
    for tick in range(1000):
        figures = {"error_ratio": ratios[tick % 40], "coverage_frac": covered[tick % 40]}
        levels = [service_level(direction="high" if tick % 3 else None, alarm_at=AS_OF)]
        found = report(
            drift=DRIFT, as_of=AS_OF + tick * timedelta(hours=6), levels=levels, age_steps=ages[tick % 40],
            **figures,
        )  # fmt: skip
        decision = decide(found, retrainings, ["+d"])
        if decision.due:
            started = build_start(decision, None, "d", found.as_of)
            retrainings.append(started.model_copy(update={"ended_at": found.as_of, "new_digest": "d"}))
    times = [r.as_of for r in retrainings]
    assert len(times) <= 2 * 36  # 250 days of data
    assert all(c - a >= timedelta(days=7) for a, c in zip(times, times[2:], strict=False))
    n_by = {name: sum(name in r.triggers for r in retrainings) for name in ("error", "coverage", "schema")}
    assert n_by["error"] <= 1 + np.log(3.0 / 0.5) / np.log(1.1)
    assert n_by["coverage"] <= 1 + np.log(0.6 / 0.01) / np.log(1.1)
    assert n_by["schema"] <= 1


def test_the_command_writes_its_decision(tmp_path, capsys):
    from homes import small_root
    from small_release import small_rows

    from tasks.retrain.__main__ import main

    root = small_root(tmp_path, small_rows(400))
    write_report(root / MonitorReport.PATH, monitor_report({"age_steps": 100}))
    with at_home(tmp_path / "home"):
        main(root)
    assert read_report(root / RetrainDecision.PATH, RetrainDecision).due
    assert "retrain: due: 100 steps" in capsys.readouterr().out


def test_the_report_of_another_dataset_decides_nothing(tmp_path):
    from homes import small_root
    from small_release import small_rows

    from tasks.core.errors import OtherDatasetError
    from tasks.retrain.__main__ import main

    root = small_root(tmp_path, small_rows(400))
    write_report(root / MonitorReport.PATH, report(age_steps=100))
    with pytest.raises(
        OtherDatasetError, match=r"'tides', and the current dataset is 'small'.*tidemill use tides"
    ):
        main(root)
    assert not (root / "data/decisions/retrain").exists()
