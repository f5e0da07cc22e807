"""Served forecasts: nothing that was answered is lost, doubled or changed."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from served_frames import write_served

from tasks.core.errors import FrameError
from tasks.core.frames import SERVED
from tasks.edges.served import (
    StoredAnswer,
    build_stored_rows,
    check_served,
    count_served,
    read_news,
    read_served,
    write_answers,
)
from tasks.edges.served_store import ServedStoreError, get_served_path
from tasks.edges.settings import ROOT, build_child_environment, read_settings

START = datetime(2018, 12, 31, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    read_settings.cache_clear()
    yield tmp_path
    read_settings.cache_clear()


def a_forecast(prediction_id: str, n_steps: int = 3, y_hat: float = 0.01, **quantiles: float) -> pl.DataFrame:
    rows = [
        {
            "series_id": "sp500",
            "cutoff": START,
            "step": step,
            "event_time": START + timedelta(days=step),
            "model": "ensemble",
            "y_hat": y_hat,
            "prediction_id": prediction_id,
            "made_at": START + timedelta(days=9, microseconds=1),
            "digest": "d" * 64,
            **{name.replace("q0", "q_0."): value for name, value in quantiles.items()},
        }
        for step in range(1, n_steps + 1)
    ]
    return SERVED.conform(pl.DataFrame(rows))


def test_the_store_of_a_dataset_never_served_is_an_empty_served_frame():
    empty = read_served("nothing")
    assert empty.height == 0
    assert SERVED.check(empty).columns == list(SERVED.columns)


@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    delay_us=st.integers(0, 10**12),
)
@tries(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_appended_to_the_last_bit(numbers, delay_us):
    y_hat, low, high = numbers
    frame = a_forecast("a", y_hat=y_hat, q01=low, q09=high).with_columns(
        pl.col("made_at") + timedelta(microseconds=delay_us)
    )
    get_served_path("bits").unlink(missing_ok=True)
    write_served("bits", frame)
    assert_frame_equal(read_served("bits"), frame, check_exact=True)


def test_releases_with_different_quantiles_live_in_one_store():
    write_served("mixed", a_forecast("a", q01=1.0, q05=2.0))
    write_served("mixed", a_forecast("b", q01=1.0, q025=1.5))
    write_served("mixed", a_forecast("c"))
    found = read_served("mixed")
    assert found.columns == [*SERVED.columns, "y_hat", "q_0.1", "q_0.25", "q_0.5"]
    assert found.group_by("prediction_id").agg(pl.col("q_0.25").null_count()).sort(
        "prediction_id"
    ).rows() == [("a", 3), ("b", 0), ("c", 3)]


def test_forecasts_from_a_requests_own_rows_are_kept_apart():
    write_served("apart", a_forecast("ours"))
    write_served("apart", a_forecast("theirs"), own_history=True)
    assert set(read_served("apart")["prediction_id"]) == {"ours"}
    assert set(read_served("apart", own_history=True)["prediction_id"]) == {"ours", "theirs"}


def test_answers_are_told_apart_by_what_was_asked():
    write_served("asked", a_forecast("news"))
    write_served(
        "asked", a_forecast("again", y_hat=0.02).with_columns(pl.col("made_at") + timedelta(seconds=1))
    )
    write_served("asked", a_forecast("past"), as_of=START)
    write_served("asked", a_forecast("theirs"), own_history=True)
    assert read_news("asked", START)["y_hat"].to_list() == [0.02] * 3, "each step once, as given last"
    assert read_news("asked", START + timedelta(microseconds=1)).height == 0
    assert count_served("asked") == {
        "n_answers": 4,
        "n_news": 2,
        "n_as_of": 1,
        "n_own_history": 1,
        "n_unmarked": 0,
    }


def test_a_store_of_an_older_version_is_read_and_goes_on(home):
    """It has no column for what was asked: its answers stay, and it can be written to."""
    (home / "served").mkdir()
    with sqlite3.connect(get_served_path("old")) as connection:
        connection.execute(
            "CREATE TABLE served (prediction_id TEXT NOT NULL, series_id TEXT NOT NULL, step INTEGER NOT"
            " NULL, cutoff INTEGER NOT NULL, event_time INTEGER NOT NULL, model TEXT NOT NULL, y_hat REAL,"
            " quantiles TEXT NOT NULL, made_at INTEGER NOT NULL, digest TEXT NOT NULL, own_history INTEGER"
            " NOT NULL, PRIMARY KEY (prediction_id, series_id, step)) WITHOUT ROWID"
        )
        connection.execute(
            "INSERT INTO served VALUES ('before', 'sp500', 1, 1, 2, 'm', 0.5, '{}', 3, 'd', 0)"
        )
        connection.execute("PRAGMA user_version=1")
    connection.close()
    more = (
        "INSERT INTO served (prediction_id, series_id, step, cutoff, event_time, model, y_hat, quantiles,"
        " made_at, digest, own_history) VALUES"
    )
    expected = {"n_answers": 1, "n_news": 0, "n_as_of": 0, "n_own_history": 0, "n_unmarked": 1}
    assert count_served("old") == expected
    assert read_news("old", START).height == 0
    write_served("old", a_forecast("after"))
    assert count_served("old") == {**expected, "n_answers": 2, "n_news": 1}
    with sqlite3.connect(get_served_path("old")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        connection.execute(f"{more} ('older', 'sp500', 1, 1, 2, 'm', 0.5, '{{}}', 3, 'd', 0)")
    connection.close()
    assert set(read_served("old")["prediction_id"]) == {"before", "after", "older"}
    assert count_served("old")["n_unmarked"] == 2


def test_an_id_that_is_there_is_refused_and_nothing_of_the_append_stays():
    write_served("twice", a_forecast("a"))
    with pytest.raises(ServedStoreError, match="UNIQUE"):
        write_served("twice", pl.concat([a_forecast("a"), a_forecast("b")]))
    assert read_served("twice").height == 3


def test_a_frame_that_is_not_served_is_refused():
    with pytest.raises(FrameError, match="digest"):
        write_served("wrong", a_forecast("a").drop("digest"))
    rows = build_stored_rows(a_forecast("a").drop("digest"))
    with pytest.raises(ServedStoreError, match=r"NOT NULL.*digest"):
        write_answers([StoredAnswer("wrong", "a", START, rows)])
    assert read_served("wrong").is_empty()


def test_a_store_that_cannot_be_written_says_which_file_and_why(home):
    (home / "served").write_text("a file where the folder should be")
    with pytest.raises(ServedStoreError, match=r"blocked\.db"):
        write_served("blocked", a_forecast("a"))
    with pytest.raises(ServedStoreError):
        check_served("blocked")


def test_a_file_that_is_no_store_is_named(home):
    (home / "served").mkdir()
    get_served_path("noise").write_bytes(b"no database" * 1000)
    with pytest.raises(ServedStoreError, match=r"noise\.db"):
        read_served("noise")


def test_a_newer_format_is_refused(home):
    (home / "served").mkdir()
    connection = sqlite3.connect(get_served_path("later"))
    connection.execute("PRAGMA user_version=7")
    connection.close()
    with pytest.raises(ServedStoreError, match="format 7"):
        write_served("later", a_forecast("b"))


def test_a_store_moved_away_under_a_running_service_is_begun_anew():
    write_served("moved", a_forecast("a"))
    for file in get_served_path("moved").parent.glob("moved.db*"):
        file.rename(file.with_name(file.name.replace("moved", "kept")))
    write_served("moved", a_forecast("b"))
    assert set(read_served("moved")["prediction_id"]) == {"b"}
    assert set(read_served("kept")["prediction_id"]) == {"a"}


def _append_many(worker: int, n: int) -> None:
    for k in range(n):
        write_served("shared", a_forecast(f"{worker}-{k:03d}"))


def test_several_processes_append_everything_once():
    workers = [
        multiprocessing.get_context("spawn").Process(target=_append_many, args=(w, 20)) for w in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0, 0]
    assert read_served("shared")["prediction_id"].n_unique() == 60


def test_a_kill_loses_nothing_that_was_appended(home):
    script = f"""
import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT / "tests/support")!r}]
from test_served import a_forecast, write_served
for k in range(10**6):
    write_served("killed", a_forecast(f"{{k:06d}}"))
    print(k, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=build_child_environment(TIDEMILL_HOME=str(home)),
    ) as child:
        for line in child.stdout:
            if int(line) >= 50:
                break
        os.kill(child.pid, signal.SIGKILL)
        printed = [int(line), *(int(more) for more in child.stdout if more.endswith("\n"))]
    found = set(read_served("killed")["prediction_id"])
    assert {f"{k:06d}" for k in range(printed[-1] + 1)} <= found
    assert read_served("killed").height == 3 * len(found)
