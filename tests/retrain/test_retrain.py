"""Due or not, and why."""

import itertools
import random
from datetime import timedelta

import pytest
from homes import at_home
from reports import AS_OF, DRIFT, monitor_report

from tasks.core.reports.monitor import MonitorReport
from tasks.core.reports.retrain import RetrainDecision, RetrainFacts
from tasks.edges.artifacts import read_report, write_report
from tasks.retrain.journal import read_retrainings, write_end, write_start
from tasks.retrain.params import RetrainParams
from tasks.retrain.stage import decide_retraining

PARAMS = RetrainParams(max_age_steps=63, max_error_ratio=1.25, min_coverage_frac=0.7)


def report(drift=None, as_of=AS_OF, **champion):
    return monitor_report(champion, dataset="tides", drift=drift, as_of=as_of)


def decide(found, retrainings=(), **params):
    return decide_retraining(found, PARAMS.model_copy(update=params), timedelta(days=1), retrainings)


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
            write_end("tides", started, digest)
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
    first = decide(report(error_ratio=1.5))
    write_start(first, None, "d")
    soon = decide(report(error_ratio=1.5, as_of=AS_OF + timedelta(days=4)), read_retrainings("tides"))
    assert (soon.due, soon.triggers) == (False, ())
    assert "held back, the last retraining is 4 steps of data ago" in soon.held
    assert "1.50 times the gate's" in soon.reason
    assert decide(report(error_ratio=1.5, as_of=AS_OF + timedelta(days=5)), read_retrainings("tides")).due


def test_a_line_that_a_kill_cut_off_is_as_not_written(home, tmp_path):
    started = write_start(decide(report(error_ratio=1.5)), "wanted by hand", "d")
    path = tmp_path / "home/retrain/tides.jsonl"
    path.write_bytes(path.read_bytes() + b'{"started_at": "20')
    assert read_retrainings("tides") == [started]
    assert (started.triggers, started.reason) == (("error", "asked"), "wanted by hand")
    write_end("tides", started, "e")
    (ended,) = read_retrainings("tides")
    assert (ended.digest, ended.new_digest) == ("d", "e")
    assert ended.ended_at is not None


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
