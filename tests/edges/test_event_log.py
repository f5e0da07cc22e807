"""The event log: numbers without a gap or a repeat from several processes, and it stops no job."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import ExitStack, closing

from homes import at_home

from tasks.edges import event_log
from tasks.edges.event_log import (
    EventLabel,
    EventSeries,
    append_event,
    get_event_label,
    get_event_path,
    label_events,
    read_events,
    read_last_number,
)
from tasks.edges.settings import ROOT, build_child_environment

WRITER = """
import sys
from tasks.edges.event_log import append_event
for k in range(200):
    append_event("training.fit", "tides", sys.argv[1], {"made": k})
"""


def test_events_of_several_processes_are_numbered_once_and_a_reader_sees_each(tmp_path):
    """Oracle: what each writer wrote, in its order."""
    names = ["a", "b", "c"]
    with at_home(tmp_path), ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, name],
                    cwd=ROOT,
                    env=build_child_environment(TIDEMILL_HOME=str(tmp_path)),
                )
            )
            for name in names
        ]
        seen, since = [], 0
        while any(writer.poll() is None for writer in writers) or read_last_number() > since:
            for event in read_events(since, limit=7):
                seen.append(event)
                since = event.number
        assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert [event.number for event in seen] == list(range(1, 601))
    for name in names:
        assert [e.fields["made"] for e in seen if e.subject == name] == list(range(200))


def test_a_log_that_is_being_made_has_no_events_yet(tmp_path):
    with at_home(tmp_path):
        assert (read_events(), read_last_number()) == ([], 0)
        with closing(sqlite3.connect(get_event_path())) as made:
            made.execute("PRAGMA journal_mode=WAL")
            assert (read_events(), read_last_number()) == ([], 0)


def test_a_series_has_the_label_of_its_block_and_is_written_a_few_at_a_time(tmp_path):
    with at_home(tmp_path):
        EventSeries("training.epoch").append(epoch=1)
        assert read_last_number() == 0  # outside of a block
        with label_events(EventLabel("tides", "mlp"), fold="2020"):
            series = EventSeries("training.epoch")
            for epoch in range(50):
                series.append(epoch=epoch, loss=float("inf") if epoch == 3 else 0.5)
            series.flush()
        assert get_event_label() is None
        found = read_events(kind="training.")
        assert [e.fields["epoch"] for e in found] == list(range(50))
        assert {(e.dataset, e.subject, e.fields["fold"]) for e in found} == {("tides", "mlp", "2020")}
        assert [e.fields["epoch"] for e in found if "loss" not in e.fields] == [3]
        assert read_events(kind="stage.") == read_events(dataset="other") == read_events(since=50) == []


def test_threads_share_the_connection_and_old_events_go(tmp_path, monkeypatch):
    monkeypatch.setattr(event_log, "KEPT", 1_500)

    def write():
        for k in range(1_000):
            append_event("alarm", "tides", "loss", {"k": k})

    with at_home(tmp_path):
        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        numbers = [event.number for event in read_events(limit=5_000)]
    assert numbers == list(range(1_501, 3_001))


def test_a_file_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(event_log, "_log", event_log._Log())
    with at_home(tmp_path):
        get_event_path().mkdir()
        append_event("alarm", "tides", "loss", {})
        append_event("alarm", "tides", "loss", {})
    assert capsys.readouterr().err.count("was not kept for the console") == 1
