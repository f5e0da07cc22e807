"""The job loop: real processes, killed at any time; a job ends once, in a state that is true."""

import json
import os
import random
import signal
import sys
import time
from contextlib import contextmanager
from datetime import timedelta

import psutil
import pytest
from homes import at_home
from servers import serving, working
from small_release import START
from test_jobs import JOBS, post_when_ready, wait_for_job
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.ops.job_loop import JobLoop
from tasks.edges.jobs import (
    Job,
    JobKeyError,
    JobQueueError,
    JobStoreError,
    get_jobs_folder,
    get_result_path,
    open_jobs,
)
from tasks.edges.processes import wait_for

ENDED = {"done", "failed", "cancelled"}
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


def make_job(name, tenant="acme", key=None, digest="0"):
    at = ("small", "batch", "{}", digest, key, "digest", "folder", "1.0.0", "rows")
    return Job(name, tenant, "ann", *at, created_at=time.time())


@contextmanager
def loop_of(home, command=SLEEP, **settings):
    with at_home(home, **settings), open_jobs() as store:
        loop = JobLoop(store, lambda _: command)
        yield store, loop
        loop.close()


def run_until(loop, holds, timeout_s=10.0):
    def tick():
        loop.run_tick()
        return holds()

    assert wait_for(tick, timeout_s)


class Campaign:
    """Random posts, cancels, ends, kills and restarts, with a ledger of its own.

    The process of a job only sleeps; the campaign ends the job in its place, at any time, also for
    an attempt that is over.
    """

    def __init__(self, store, seed):
        self.store, self.random = store, random.Random(seed)
        self.loop = JobLoop(store, lambda _: SLEEP)
        self.posted, self.refused, self.cancelled, self.done, self.failed = set(), 0, set(), {}, set()
        self.n_killed, self.attempts = {}, []  # attempts: all that ever ran, of any job

    @property
    def running(self):
        return list(self.loop._running.values())

    def post(self):
        name, tenant = f"job{len(self.posted)}", self.random.choice(["acme", "other"])
        open_before = [j for j in self.store.list_jobs(tenant=tenant) if j.state not in ENDED]
        try:
            self.store.add(make_job(name, tenant))
            self.posted.add(name)
            assert len(open_before) < 3
        except JobQueueError:
            self.refused += 1
            assert len(open_before) == 3

    def cancel(self):
        if self.posted:
            name = self.random.choice(sorted(self.posted))
            before = self.store.find(name)
            self.store.cancel(name)
            if before.state not in ENDED:
                self.cancelled.add(name)

    def end(self):
        """The process of some attempt, maybe of an old one, writes its result and ends its job."""
        if not self.attempts:
            return
        job = self.random.choice([*self.attempts[-3:], *self.store.list_running()])
        is_current = (job.id, job.n_attempts) in {(j.id, j.n_attempts) for j in self.store.list_running()}
        if not is_current:
            assert not self.store.finish(job, {"attempt": job.n_attempts})
            assert not self.store.report(job, 1, 2, "late")
        elif self.random.random() < 0.3:
            assert self.store.fail(job, {"status": 422})
            self.failed.add(job.id)
        else:
            get_result_path(job.id, "json").parent.mkdir(exist_ok=True)
            get_result_path(job.id, "json").write_text(json.dumps({"attempt": job.n_attempts}))
            assert self.store.report(job, 1, 2, "half")
            assert self.store.finish(job, {"attempt": job.n_attempts})
            self.done[job.id] = job.n_attempts

    def kill(self):
        if self.running:
            running = self.random.choice(self.running)
            running.child.kill()
            running.child.wait()
            self.loop.run_tick()
            self.note_interrupted(running.job)

    def note_interrupted(self, job):
        if job.id in self.cancelled | self.failed or job.id in self.done:
            return
        self.n_killed[job.id] = self.n_killed.get(job.id, 0) + 1
        if self.n_killed[job.id] == 2:
            self.failed.add(job.id)

    def restart(self):
        """The loop stops, or is killed with all of its processes."""
        if self.random.random() < 0.5:
            self.loop.close()
        else:
            for running in self.running:
                running.child.kill()
                running.child.wait()
                self.note_interrupted(running.job)
        self.loop = JobLoop(self.store, lambda _: SLEEP)

    def tick(self):
        self.loop.run_tick()
        self.attempts += [running.job for running in self.running if running.job not in self.attempts]

    def check(self):
        """What the store says is what the ledger has; processes and files are those of it."""
        jobs = {job.id: job for job in self.store.list_jobs()}
        assert jobs.keys() == self.posted
        for name, job in jobs.items():
            is_in = {
                "done": name in self.done,
                "failed": name in self.failed,
                "cancelled": name in self.cancelled,
            }
            assert [state for state, holds in is_in.items() if holds] == (
                [job.state] if job.state in ENDED else []
            )
            assert 0 <= job.n_attempts <= 2
        self.tick()
        running = {job.id for job in self.store.list_running()}
        assert {r.job.id for r in self.running} == running
        assert all(psutil.pid_exists(r.child.pid) for r in self.running)
        files = {path.stem for path in get_jobs_folder().glob("results/*")}
        assert files == {name for name in self.done if jobs[name].state == "done"}
        for name, attempt in self.done.items():
            assert json.loads(get_result_path(name, "json").read_text()) == {"attempt": attempt}


def run_campaign(home, seed, n_steps):
    """How many jobs ended in each state, and how many were refused."""
    with at_home(home, TIDEMILL_JOB_QUEUE="3", TIDEMILL_JOB_PROCESSES="2"), open_jobs() as store:
        campaign = Campaign(store, seed)
        try:
            for _ in range(n_steps):
                moves = [campaign.post] * 4 + [campaign.cancel, campaign.end, campaign.end, campaign.kill]
                campaign.random.choice([*moves, campaign.restart, campaign.tick])()
                campaign.check()
            while store.list_running():
                campaign.end()
                campaign.check()
        finally:
            campaign.loop.close()
        assert {job.state for job in store.list_jobs()} <= ENDED
        return len(campaign.done), len(campaign.failed), len(campaign.cancelled), campaign.refused


def test_a_job_ends_once_in_the_state_that_the_ledger_has(tmp_path):
    assert min(run_campaign(tmp_path, 1, 120)) > 0


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(30))
def test_a_job_ends_once_in_long_campaigns(tmp_path, seed):
    run_campaign(tmp_path, seed, 300)


def test_a_cancelled_job_is_killed_within_two_seconds_with_nothing_left(tmp_path):
    with loop_of(tmp_path) as (store, loop):
        store.add(make_job("a"))
        loop.run_tick()
        (running,) = loop._running.values()
        folder = get_result_path("a", "json").parent
        folder.mkdir()
        (folder / f".a.json.{running.child.pid}.part").write_text('{"rows": [')
        began = time.monotonic()
        store.cancel("a")
        run_until(loop, lambda: not loop._running)
        assert time.monotonic() - began < 2
        assert running.child.returncode == -signal.SIGKILL
        assert list(folder.iterdir()) == []
        assert store.find("a").state == "cancelled"


@pytest.mark.parametrize(
    ("setting", "code", "fact"),
    [
        ({"TIDEMILL_JOB_MEMORY_MB": "200"}, "x = bytearray(b'x') * 400_000_000", "more than 200"),
        ({"TIDEMILL_JOB_LIMIT_S": "0.5"}, "0", "it took more than 0.5 s"),
    ],
)
def test_a_job_above_its_limit_fails_with_the_reason(tmp_path, setting, code, fact):
    command = [sys.executable, "-S", "-c", f"import time; {code}; time.sleep(60)"]
    with loop_of(tmp_path, command, **setting) as (store, loop):
        store.add(make_job("a"))
        run_until(loop, lambda: store.find("a").state == "failed")
        assert fact in json.loads(store.find("a").problem)["fact"]
        assert (store.find("a").n_attempts, loop._running) == (1, {})


def test_a_job_whose_process_is_killed_twice_fails_with_the_reason(tmp_path):
    with loop_of(tmp_path, [sys.executable, "-S", "-c", "import os; os.abort()"]) as (store, loop):
        store.add(make_job("a"))
        run_until(loop, lambda: store.find("a").state == "failed")
        job = store.find("a")
        assert job.n_attempts == 2
        assert json.loads(job.problem)["fact"] == "its process ended with code -6"


def test_tenants_take_turns(tmp_path):
    with loop_of(tmp_path) as (store, _):
        for name, tenant in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b")]:
            store.add(make_job(name, tenant))
        assert [store.start_next().id for _ in range(5)] == ["a1", "b1", "a2", "b2", "a3"]


def test_old_jobs_and_their_results_are_deleted(tmp_path):
    with loop_of(tmp_path, TIDEMILL_KEEP_JOBS_DAYS="1e-9") as (store, loop):
        store.add(make_job("old"))
        job = store.start_next()
        get_result_path("old", "json").parent.mkdir()
        get_result_path("old", "json").write_text("{}")
        store.finish(job, {})
        store.add(make_job("waiting"))
        loop.run_tick()
        assert store.find("old") is None
        assert not get_result_path("old", "json").exists()
        assert store.find("waiting") is not None


def test_a_key_is_of_one_tenant_and_one_body(tmp_path):
    with loop_of(tmp_path) as (store, _):
        first = store.add(make_job("a", key="k"))
        assert store.add(make_job("b", key="k")) == first
        assert store.add(make_job("c", "other", key="k", digest="1")).id == "c"
        with pytest.raises(JobKeyError, match="is that of job a"):
            store.add(make_job("d", key="k", digest="1"))


def test_jobs_by_command(tmp_path):
    runner = CliRunner()
    with loop_of(tmp_path) as (store, _):
        store.add(make_job("a"))
        store.add(make_job("b", "other"))
        listed = json.loads(runner.invoke(app, ["jobs", "list", "--json"]).stdout)
        assert [(job["tenant"], job["job_id"], job["state"]) for job in listed] == [
            ("other", "b", "queued"),
            ("acme", "a", "queued"),
        ]
        assert len(json.loads(runner.invoke(app, ["jobs", "list", "--tenant", "acme", "--json"]).stdout)) == 1
        assert "batch" in runner.invoke(app, ["jobs", "list"]).stdout
        store.fail(store.start_next(), {"detail": "job: too large"})
        assert "failed: job: too large" in runner.invoke(app, ["jobs", "show", "a"]).stdout
        assert (
            json.loads(runner.invoke(app, ["jobs", "cancel", "b", "--json"]).stdout)["state"] == "cancelled"
        )
        assert runner.invoke(app, ["jobs", "cancel", "a"]).stdout == "a is failed.\n"
        unknown = runner.invoke(app, ["jobs", "show", "c"])
        assert (unknown.exit_code, "There is no job 'c'" in unknown.output) == (2, True)


def test_a_file_of_another_version_is_named(tmp_path):
    with at_home(tmp_path):
        with open_jobs() as store:
            store._connection.execute("PRAGMA user_version=9")
        with pytest.raises(JobStoreError, match="format 9"), open_jobs():
            pass


def test_a_kill_of_the_loop_ends_its_job_which_the_next_loop_does_again(releases, tmp_path):
    """A real batch in a real loop."""
    times = [(START + timedelta(days=360, hours=h)).isoformat() for h in range(400)]
    with serving(tmp_path, TIDEMILL_RELEASE=str(releases / "first")) as server:
        with working(tmp_path) as loop:
            posted = post_when_ready(server, {"kind": "batch", "as_of": times}).json()["job_id"]
            assert wait_for(
                lambda: server.client.get(f"{JOBS}/{posted}").json()["progress"]["n_done"] > 0, 30
            )
            (child,) = psutil.Process(loop.pid).children()
            assert child.nice() == 10
            os.kill(loop.pid, signal.SIGKILL)
            assert wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 2)
        with working(tmp_path):
            job = wait_for_job(server, posted)
    assert (job["state"], job["n_attempts"]) == ("done", 2), job
    with at_home(tmp_path):
        assert json.loads(get_result_path(posted, "json").read_text())["n_forecasts"] > 0
        assert {path.suffix for path in get_jobs_folder().glob("results/*")} == {".json", ".parquet"}
