"""Due or not, and why."""

import pytest
from reports import monitor_report

from tasks.core.reports.monitor import MonitorReport
from tasks.core.reports.retrain import RetrainDecision, RetrainFacts
from tasks.edges.artifacts import read_report, write_report
from tasks.retrain.params import RetrainParams
from tasks.retrain.stage import decide_retraining

PARAMS = RetrainParams(max_age_steps=63, max_error_ratio=1.25, min_coverage_frac=0.7)


def report(**champion):
    return monitor_report(champion, dataset="tides")


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"age_steps": 64}, "64 steps of data"),
        ({"error_ratio": 1.3}, "1.30 times the gate's"),
        ({"coverage_frac": 0.65}, "65% of outcomes"),
    ],
)
def test_each_limit_alone_makes_it_due_and_is_named(changed, word):
    decision = decide_retraining(report(**changed), PARAMS)
    assert decision.due
    assert len(decision.reasons) == 1
    assert word in decision.reason


def test_at_the_limit_it_is_not_due():
    decision = decide_retraining(report(age_steps=63, error_ratio=1.25, coverage_frac=0.7), PARAMS)
    assert (decision.due, decision.reasons) == (False, ())


def test_all_reasons_are_named():
    assert (
        len(decide_retraining(report(age_steps=99, error_ratio=9.0, coverage_frac=0.1), PARAMS).reasons) == 3
    )


def test_too_little_data_is_no_reason():
    decision = decide_retraining(report(error_ratio=None, coverage_frac=None, n_known=3), PARAMS)
    assert not decision.due
    assert "too few outcomes are known" in decision.reason


def test_without_a_champion_nothing_is_due():
    decision = decide_retraining(monitor_report(), PARAMS)
    assert (decision.due, decision.facts) == (False, RetrainFacts())


def test_the_command_writes_its_decision(tmp_path, capsys):
    from homes import small_root
    from small_release import small_rows

    from tasks.retrain.__main__ import main

    root = small_root(tmp_path, small_rows(400))
    write_report(root / MonitorReport.PATH, monitor_report({"age_steps": 100}))
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
