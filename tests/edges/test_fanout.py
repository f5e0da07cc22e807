"""The fan-out: wherever jobs run, the results are the same, in order, and nobody is left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import fanned
import numpy as np
import psutil
import pytest
from homes import at_home

from tasks.core.errors import SettingsError
from tasks.edges.processes import find_free_port, start_process, stop_process, wait_for
from tasks.edges.workers import fanout
from tasks.edges.workers.fanout import MapOptions, is_pool_faster, run_jobs

ROOT = Path(__file__).resolve().parents[2]
SHARED = {"weights": np.arange(1000.0), "empty": np.empty(0)}
JOBS = list(range(8))
HERE, THREADS, PROCESSES = (
    MapOptions(1, releases_gil=False),
    MapOptions(3, releases_gil=True),
    MapOptions(2, releases_gil=False),
)


@pytest.fixture(autouse=True)
def home(tmp_path):
    with at_home(tmp_path):
        yield tmp_path


@pytest.fixture
def processes_at_once(monkeypatch):
    """As if processes cost nothing to start."""
    monkeypatch.setattr(fanout, "START_S", -1e6)


@pytest.mark.parametrize("how", [HERE, THREADS, PROCESSES])
def test_results_are_those_of_a_loop_in_the_order_of_the_jobs(how, processes_at_once):
    told = []
    results = run_jobs(fanned.scaled, SHARED, JOBS, how, on_result=lambda i, r: told.append((i, r)))
    assert results == [fanned.scaled(SHARED, job) for job in JOBS]
    assert sorted(told) == list(enumerate(results))


def test_processes_look_at_one_copy_of_what_is_shared_and_leave_nothing_in_home(home, processes_at_once):
    seen = run_jobs(fanned.where_and_whether_writeable, SHARED, JOBS, PROCESSES)
    assert seen[:2] == [(os.getpid(), True)] * 2  # the probe
    assert {writeable for _, writeable in seen[2:]} == {False}
    assert len({pid for pid, _ in seen[2:]} - {os.getpid()}) == 2
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("how", [HERE, THREADS, PROCESSES])
def test_no_job_begins_after_the_end_of_the_budget_and_the_list_ends_there(how, processes_at_once):
    answers = iter([True] * 4 + [False] * 100)
    assert run_jobs(fanned.scaled, SHARED, JOBS, how, should_start=lambda: next(answers)) == [
        fanned.scaled(SHARED, job) for job in JOBS[:4]
    ]


@pytest.mark.parametrize("how", [HERE, THREADS, PROCESSES])
def test_an_error_of_a_job_is_raised_as_it_is(how):
    with pytest.raises(ZeroDivisionError, match=r"job [0-2]"):
        run_jobs(fanned.failing, SHARED, JOBS, how)


def test_a_killed_process_is_a_clear_error_and_what_was_done_has_been_told(processes_at_once):
    told = []
    with pytest.raises(SettingsError, match="TIDEMILL_WORKERS lower"):
        run_jobs(fanned.killed_at_three, SHARED, JOBS, PROCESSES, on_result=lambda i, _: told.append(i))
    assert set(told) >= {0, 1}
    assert 3 not in told


def test_processes_are_started_only_when_they_pay():
    assert not is_pool_faster([0.01, 0.01], n_left=40, workers=8)
    # A net: most of the first job is an import that each process would pay again
    assert not is_pool_faster([12.0, 1.2], n_left=5, workers=2)
    assert is_pool_faster([3.0, 3.0], n_left=20, workers=4)


def test_workers_end_with_the_one_who_started_them(tmp_path):
    code = (
        "import fanned\nfrom tasks.edges.workers import fanout\nfanout.START_S = -1e6\nif __name__ =="
        f" '__main__': fanout.run_jobs(fanned.slowly, {str(tmp_path)!r}, range(400), fanout.MapOptions(2,"
        " releases_gil=False))"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    with parent:
        workers = {parent.pid}
        assert wait_for(
            lambda: (
                len(workers.update(int(p.suffix[1:]) for p in tmp_path.glob("[0-9]*.[0-9]*")) or workers) == 3
            ),
            60,
        )
        os.kill(parent.pid, signal.SIGKILL)
    assert wait_for(lambda: not any(psutil.pid_exists(pid) for pid in workers), 10)


def test_a_cluster_that_loses_a_worker_in_mid_run_gives_complete_and_equal_results(tmp_path):
    port = find_free_port("127.0.0.1")
    address = f"tcp://127.0.0.1:{port}"
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"}
    worker = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path), address]
    commands = [
        ["dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        *[["dask", "worker", *worker]] * 2,
    ]
    marks = tmp_path / "marks"
    marks.mkdir()
    with (tmp_path / "log").open("w") as log:
        started = [start_process(command[1], command, log, environment) for command in commands]
    try:
        assert wait_for(lambda: (tmp_path / "log").read_text().count("Registered to") == 2, 60)
        victim = []

        def lose_a_worker(_index, _result):
            if not victim:
                victim.append(int(next(marks.iterdir()).suffix[1:]))
                os.kill(victim[0], signal.SIGKILL)

        with at_home(tmp_path, TIDEMILL_DASK_ADDRESS=address):
            shared, jobs = fanned.Marks(str(marks), np.ones(3)), [fanned.Job(n) for n in JOBS]
            results = run_jobs(fanned.on_a_cluster, shared, jobs, HERE, on_result=lose_a_worker)
        assert results == [n * n + 3.0 for n in JOBS]
        assert victim
        assert len({p.suffix for p in marks.iterdir()}) == 2  # both worked
    finally:
        for child, marked in reversed(started):
            stop_process(marked)
            child.wait()


def test_no_scheduler_says_which_setting_and_what_to_start(tmp_path, monkeypatch):
    monkeypatch.setattr(fanout, "CONNECT_S", 1.0)
    with (
        at_home(tmp_path, TIDEMILL_DASK_ADDRESS=f"tcp://127.0.0.1:{find_free_port('127.0.0.1')}"),
        pytest.raises(SettingsError, match="dask scheduler"),
    ):
        run_jobs(fanned.scaled, SHARED, JOBS, HERE)
