"""`python -m deployments.ops.job_loop`: work on the jobs of the service, until stopped.

`tidemill up` starts it. Each job is a process of its own, of lower priority and with a limit on
memory and time, so that neither the service nor another job waits for it. A process that was killed
is started once more.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil

from deployments.forecaster.problems import ProblemError
from deployments.ops.webhooks import start_senders
from tasks.core.errors import SettingsError
from tasks.edges.command import run_or_exit
from tasks.edges.files import try_lock
from tasks.edges.jobs import (
    HEARTBEAT_S,
    MAX_ATTEMPTS,
    Job,
    JobStore,
    JobStoreError,
    delete_result,
    get_jobs_folder,
    open_jobs,
)
from tasks.edges.processes import start_process
from tasks.edges.settings import read_settings

TICK_S = 0.25
_CLEAN_S = 600.0
_MB = 1_000_000


class RunningJob(NamedTuple):
    """A job and its process."""

    job: Job
    child: "subprocess.Popen[str]"
    began_s: float  # on the monotonic clock


def main(tick_s: float = TICK_S) -> None:
    """Work on jobs until SIGTERM or SIGINT. Raises SettingsError when another loop does."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with try_lock(get_jobs_folder() / "loop.lock") as holder:
        if holder:
            raise SettingsError(
                f"The process {holder} works on the jobs of {read_settings().home}. One loop does."
            )
        start_senders(stopping)
        while not stopping.is_set():
            try:
                with open_jobs() as store:
                    run_loop(JobLoop(store), stopping, tick_s)
            except JobStoreError as error:
                print(f"jobs: {error}", flush=True)
                stopping.wait(10.0)


def run_loop(loop: "JobLoop", stopping: threading.Event, tick_s: float) -> None:
    """Ticks until *stopping*; then the jobs wait for the next loop."""
    print("jobs: waiting for jobs", flush=True)
    try:
        while not stopping.is_set():
            loop.run_tick()
            stopping.wait(tick_s)
    finally:
        loop.close()


def build_command(job: Job) -> list[str]:
    """The process of *job*."""
    return [sys.executable, "-m", "deployments.ops.job_process", job.id, str(job.n_attempts)]


class JobLoop:
    """Starts, watches and ends the processes of jobs. build: the command of a job."""

    def __init__(self, store: JobStore, build: Callable[[Job], list[str]] = build_command) -> None:
        self._store, self._build = store, build
        self._running: dict[str, RunningJob] = {}
        self._heartbeat_s = self._clean_s = 0.0
        for job in store.list_running():  # of a loop that is gone, and its processes with it
            delete_result(job.id)
            self._settle_interrupted(job, "the job loop was ended")

    def run_tick(self) -> None:
        """Look after the processes once, and start what may begin."""
        if time.monotonic() - self._heartbeat_s > HEARTBEAT_S:
            self._store.write_heartbeat()
            self._heartbeat_s = time.monotonic()
        current = {(job.id, job.n_attempts) for job in self._store.list_running()}
        for running in list(self._running.values()):
            self._watch(running, is_current=(running.job.id, running.job.n_attempts) in current)
        while len(self._running) < read_settings().job_processes and (job := self._store.start_next()):
            self._start(job)
        if time.monotonic() - self._clean_s > _CLEAN_S:
            self._clean_s = time.monotonic()
            for job_id in self._store.delete_old(time.time() - 86400 * read_settings().keep_jobs_days):
                delete_result(job_id)

    def close(self) -> None:
        """End the processes; their jobs wait, and begin again with the next loop."""
        for running in list(self._running.values()):
            self._end(running)
            if self._store.requeue(running.job, "the job loop was stopped", is_counted=False):
                delete_result(running.job.id)

    def _start(self, job: Job) -> None:
        delete_result(job.id)  # of an earlier attempt
        child, _ = start_process(f"job {job.id}", self._build(job), 1, {})
        self._running[job.id] = RunningJob(job, child, time.monotonic())
        print(f"jobs: {job.kind} {job.id} of {job.tenant!r} started as process {child.pid}", flush=True)

    def _watch(self, running: RunningJob, *, is_current: bool) -> None:
        job = running.job
        if running.child.poll() is not None:
            self._end(running)
            # Asked again: it may have ended the job between the look at the store and its own end
            if (found := self._store.find(job.id)) is not None and found.state == "running":
                self._settle_interrupted(job, f"its process ended with code {running.child.returncode}")
                found = self._store.find(job.id)
            print(f"jobs: {job.id} is {found.state if found else 'gone'}", flush=True)
        elif not is_current:
            self._end(running)
            found = self._store.find(job.id)
        elif (fact := self._find_excess(running)) is not None:
            self._end(running)
            rule = "A job has a limit on memory and time (TIDEMILL_JOB_MEMORY_MB, TIDEMILL_JOB_LIMIT_S)."
            self._store.fail(job, ProblemError(422, "job", fact, rule, "Send a smaller one.").body)
            found = self._store.find(job.id)
        else:
            return
        if found is None or found.state != "done":
            delete_result(job.id)

    def _settle_interrupted(self, job: Job, fact: str) -> None:
        """Let *job* begin once more, whose process was killed, or fail."""
        if job.n_attempts < MAX_ATTEMPTS:
            self._store.requeue(job, f"{fact}; it is tried once more", is_counted=True)
            return
        rule = f"A job whose process is killed is tried {MAX_ATTEMPTS} times."
        self._store.fail(job, ProblemError(500, "job", fact, rule, "Report it to the operator.").body)

    def _find_excess(self, running: RunningJob) -> str | None:
        settings = read_settings()
        if (time.monotonic() - running.began_s) > settings.job_limit_s:
            return f"it took more than {settings.job_limit_s:g} s"
        if (n_bytes := _read_memory(running.child.pid)) > settings.job_memory_mb * _MB:
            return f"it used {n_bytes // _MB:,} MB, more than {settings.job_memory_mb:,}"
        return None

    def _end(self, running: RunningJob) -> None:
        """Kill the process, which leads a group of its own; its children end with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.child.pid, signal.SIGKILL)
        running.child.wait()
        del self._running[running.job.id]


def _read_memory(pid: int) -> int:
    """Bytes of the process *pid* and its descendants."""
    try:
        process = psutil.Process(pid)
        return sum(part.memory_info().rss for part in (process, *process.children(recursive=True)))
    except psutil.Error:  # it has just ended
        return 0


if __name__ == "__main__":
    run_or_exit(main)
