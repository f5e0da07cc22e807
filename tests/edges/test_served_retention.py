"""Old answers leave the store: none is lost, doubled or changed, also by a kill in between."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from polars.testing import assert_frame_equal
from test_audit import an_answer
from test_served import START

from tasks.edges import served_retention
from tasks.edges.audit_check import verify_audit
from tasks.edges.served import build_stored_history, count_served, find_answer, read_news, write_answers
from tasks.edges.served_retention import move_old_answers
from tasks.edges.served_store import get_archive_path
from tasks.edges.settings import ROOT, build_child_environment, read_settings

NAME = "audited"
MAY, NOW = datetime(2026, 5, 20, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    read_settings.cache_clear()
    yield tmp_path
    read_settings.cache_clear()


def made_at(k, time):
    return an_answer(k)._replace(made_at=time)


def write_half_a_year():
    """Two answers each 20 days from May on; returns their ids and times."""
    answers = [made_at(k, MAY + timedelta(days=20 * (k // 2), seconds=k)) for k in range(20)]
    write_answers(answers)
    return answers


def read_all(answers):
    return [find_answer(NAME, answer.prediction_id) for answer in answers]


def test_a_month_that_is_old_is_moved_and_read_as_before(home):
    answers = write_half_a_year()
    before = (read_all(answers), read_news(NAME, START), count_served(NAME))
    assert move_old_answers(NAME, NOW) == ["2026-05", "2026-06", "2026-07", "2026-08"]
    assert sorted(path.name for path in get_archive_path(NAME, "x").parent.glob("*.parquet")) == [
        f"2026-0{k}.parquet" for k in (5, 6, 7, 8)
    ]
    after = (read_all(answers), read_news(NAME, START), count_served(NAME))
    assert after[0] == before[0]
    assert all(answer.rows for answer in after[0])
    key = ["cutoff", "step"]
    assert_frame_equal(after[1].sort(key), before[1].sort(key))
    assert after[2] == before[2]
    assert after[2]["n_answers"] == 20
    assert verify_audit(NAME).fault is None
    assert move_old_answers(NAME, NOW) == []
    path = get_archive_path(NAME, "2026-06")
    path.write_bytes(path.read_bytes()[:-1])
    assert verify_audit(NAME).fault.kind == "steps"


def test_an_old_month_is_deleted_where_that_is_set(home, monkeypatch):
    monkeypatch.setenv("TIDEMILL_OLD_ANSWERS", "delete")
    monkeypatch.setenv("TIDEMILL_KEEP_ANSWERS_DAYS", "30")
    read_settings.cache_clear()
    answers = write_half_a_year()
    counts = count_served(NAME)
    move_old_answers(NAME, NOW)
    assert count_served(NAME) == counts
    assert [bool(found.rows) for found in read_all(answers)] == [a.made_at.month > 9 for a in answers]
    assert verify_audit(NAME).fault is None
    assert not list(get_archive_path(NAME, "x").parent.glob("*.parquet"))


@pytest.mark.parametrize("mode", ["move", "delete"])
@pytest.mark.parametrize("point", ["after the file", "after the audit", "while rows are deleted"])
def test_a_kill_in_between_loses_and_doubles_nothing(home, monkeypatch, point, mode):
    monkeypatch.setenv("TIDEMILL_OLD_ANSWERS", mode)
    read_settings.cache_clear()
    monkeypatch.setattr(served_retention, "_N_ANSWERS", 1)
    answers = write_half_a_year()
    before, counts = read_all(answers), count_served(NAME)
    with monkeypatch.context() as patch:

        def fail(*_):
            raise KeyboardInterrupt

        if point == "after the file":
            patch.setattr(served_retention, "write_audit", fail)
        elif point == "after the audit":
            patch.setattr(served_retention, "write_audit_head", fail)
        else:

            def delete_one(connection, span, _):
                connection.execute(
                    "DELETE FROM served WHERE prediction_id = (SELECT min(prediction_id) FROM served"
                    " WHERE made_at >= ? AND made_at < ?)",
                    span,
                )
                connection.commit()
                raise KeyboardInterrupt

            patch.setattr(served_retention, "_delete_rows", delete_one)
        with pytest.raises(KeyboardInterrupt):
            move_old_answers(NAME, NOW)
    straggler = made_at(100, MAY)
    write_answers([straggler])
    move_old_answers(NAME, NOW)
    assert count_served(NAME) == {**counts, "n_answers": 21, "n_news": 21}
    kept = read_all([*answers, straggler])
    if mode == "move":
        assert kept[:-1] == before
        assert kept[-1].rows
    assert verify_audit(NAME).fault is None
    assert move_old_answers(NAME, NOW) == []


def test_own_histories_go_with_the_answers(home):
    history = build_stored_history([{"event_time": "2026-01-01T00:00:00Z", "y": 1.0}])
    write_answers([made_at(1, MAY)._replace(history=history)])
    move_old_answers(NAME, NOW)
    write_answers([made_at(2, NOW)._replace(history=history)])
    write_answers([made_at(3, MAY)._replace(history=history)])
    move_old_answers(NAME, NOW)
    assert count_served(NAME)["n_answers"] == 3


_MEASURED = """
import re, sys
from datetime import UTC, datetime
from pathlib import Path
from tasks.edges.served import count_served, read_news
from tasks.edges.served_retention import move_old_answers
moved = move_old_answers("many", datetime(2027, 6, 1, tzinfo=UTC)) if sys.argv[1] == "move" else []
n_news = read_news("many", datetime(2000, 1, 1, tzinfo=UTC)).height
peak_kb = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(count_served("many")["n_answers"], n_news, len(moved), int(peak_kb) // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_answers():
    """Many answers of one forecast, read from the store, then moved and read: the peak in MB."""
    answer, peaks, n_written = an_answer(1)._replace(dataset="many"), {}, 0
    for n in (1_000, 30_000):
        write_answers([answer._replace(prediction_id=f"{k:06d}") for k in range(n_written, n)])
        peaks[n] = measure_peak("read", n)
        n_written = n
    assert peaks[30_000] - peaks[1_000] < 15
    assert measure_peak("move", 30_000) - peaks[1_000] < 120


def measure_peak(mode, n):
    env = build_child_environment(TIDEMILL_HOME=str(read_settings().home))
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, mode], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    n_answers, n_news, n_moved, peak = map(int, done.stdout.split())
    assert (n_answers, n_news, n_moved) == (n, 3, mode == "move")
    print(mode, n, peak, "MB")
    return peak
