"""One stage, run by DVC, in a process group of its own that ends with this process.

The command line and the flows both run stages here. DVC decides whether the stage must run. One run
at a time works in a checkout: a lock file names the process that holds it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tasks.core.errors import StageError
from tasks.edges.dvc_files import delete_broken_dvc_files
from tasks.edges.event_log import Field, append_event
from tasks.edges.files import hold_lock
from tasks.edges.params import STAGES, read_dataset, read_models
from tasks.edges.settings import ROOT, build_child_environment, read_settings

LOCK_WAIT_S = 900.0  # a whole run on two cores takes a few minutes; longer means that it hangs
_N_LAST_LINES = 40
_STOP_S = 5.0

OnLine = Callable[[str], None]


class TargetResult(NamedTuple):
    """One model of `train` has ended. ran: False when DVC found nothing changed."""

    model: str
    ran: bool
    seconds: float


@dataclass(frozen=True)
class StageResult:
    """How a stage ended. ran: False when DVC found nothing changed. log: the last lines."""

    stage: str
    ran: bool
    seconds: float
    log: str


def run_stage(
    stage: str,
    root: Path = ROOT,
    on_line: OnLine | None = None,
    limit_s: float | None = None,
    on_model: Callable[[TargetResult], None] | None = None,
) -> StageResult:
    """Bring *stage* up to date, the models of `train` at the same time.

    on_model: called when a model of `train` has ended, from the thread that ran it.
    limit_s: from when the lock is ours; a stage that takes longer is ended.
    Raises StageError with the stage's last lines when it fails, or takes too long.
    """
    if stage not in STAGES:
        raise StageError(f"No stage {stage!r}; there are {', '.join(STAGES)}.")
    started = time.monotonic()
    with wait_for_checkout_lock(root, on_line):
        targets = [f"train@{model}" for model in reversed(read_models(root))] if stage == "train" else [stage]
        n_jobs = min(read_settings().jobs, len(targets))
        n_workers = read_settings().workers or max(1, read_settings().n_workers // n_jobs)

        def run_target(target: str) -> tuple[bool, str]:
            target_started = time.monotonic()
            with _report_stage(root, stage, target) as outcome:
                ran, log = _run_dvc(target, root, on_line, limit_s, n_workers)
                outcome["ran"] = ran
            if on_model is not None and stage == "train":
                on_model(TargetResult(target.partition("@")[2], ran, time.monotonic() - target_started))
            return ran, log

        with ThreadPoolExecutor(n_jobs) as pool:
            results = list(pool.map(run_target, targets))
    ran = any(ran for ran, _ in results)
    return StageResult(stage, ran, time.monotonic() - started, "\n".join(log for _, log in results))


@contextmanager
def _report_stage(root: Path, stage: str, target: str) -> Iterator[dict[str, Field]]:
    """Say in the event log that a stage, or a model of `train`, has started and how it ended."""
    dataset, started = read_dataset(root), time.monotonic()
    model = target.partition("@")[2]
    outcome: dict[str, Field] = {"model": model or None}
    append_event("stage.started", dataset, stage, outcome)
    try:
        yield outcome
    except BaseException as error:
        outcome["error"] = f"{type(error).__name__}: {error}"[:1000]
        raise
    finally:
        outcome["seconds"] = round(time.monotonic() - started, 3)
        append_event("stage.failed" if "error" in outcome else "stage.ended", dataset, stage, outcome)


def delete_unused_cache(root: Path = ROOT) -> bool:
    """Remove from DVC's cache what no current artifact needs, when it is above `keep_cache_mb`.

    Returns whether it was.
    """
    cache = root / ".dvc" / "cache"
    n_bytes = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    if n_bytes <= read_settings().keep_cache_mb * 1_000_000:
        return False
    with wait_for_checkout_lock(root):
        subprocess.run(
            [sys.executable, "-m", "dvc", "gc", "--workspace", "--force", "--quiet"],
            cwd=root,
            env=build_child_environment(),
            check=True,
        )
    return True


@contextmanager
def wait_for_checkout_lock(root: Path, on_line: OnLine | None = None) -> Iterator[None]:
    """Hold the checkout's lock; a wait for another run is reported once to *on_line*.

    Raises StageError with that run's process id after LOCK_WAIT_S.
    """
    path = get_checkout_lock_path(root)

    def report_wait(holder: str) -> None:
        if on_line:
            on_line(f"waiting for the run of process {holder} in this checkout")

    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(path, report_wait, LOCK_WAIT_S))
        except TimeoutError as error:
            raise StageError(
                f"Another run (process {error}) has held {path} for {LOCK_WAIT_S:.0f} s. Wait for it or stop"
                " it; one run works in a checkout."
            ) from None
        yield


def get_checkout_lock_path(root: Path) -> Path:
    """The lock of the runs in a checkout."""
    return root / ".dvc" / "tmp" / "tidemill.lock"


class _DvcOutcome(NamedTuple):
    """How a run of DVC ended. ran: whether the stage's command was run. lines: the last ones."""

    code: int
    ran: bool
    is_over_limit: bool
    lines: list[str]


def _run_dvc(
    target: str, root: Path, on_line: OnLine | None, limit_s: float | None, n_workers: int
) -> tuple[bool, str]:
    """(whether it ran, its last lines). Raises StageError when it fails or takes too long.

    When DVC fails on a file of its own that a kill has broken, that file goes and DVC runs again.
    """
    outcome = _follow_dvc(_start_dvc(target, root, n_workers), on_line, limit_s)
    if outcome.code != 0 and not outcome.is_over_limit:
        broken = delete_broken_dvc_files(root)
        if broken and on_line:
            on_line(f"removed what a killed DVC left unreadable: {', '.join(map(str, broken))}")
        if broken:
            outcome = _follow_dvc(_start_dvc(target, root, n_workers), on_line, limit_s)
    log = "\n".join(outcome.lines)
    if outcome.is_over_limit:
        raise StageError(
            f"Stage {target!r} took longer than its limit of {limit_s:.0f} s and was ended. Its last"
            f" lines:\n{log}"
        )
    if outcome.code != 0:
        raise StageError(f"Stage {target!r} ended with code {outcome.code}. Its last lines:\n{log}")
    return outcome.ran, log


def _start_dvc(target: str, root: Path, n_workers: int) -> "subprocess.Popen[str]":
    """DVC in a process group of its own, which ends with this process."""
    python = sys.executable
    watched = [python, "-m", "tasks.edges.parent_watch", "--parent", str(os.getpid())]
    environment = build_child_environment(
        PATH=f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        PYTHONUNBUFFERED="1",
        TIDEMILL_WORKERS=str(n_workers),
    )
    return subprocess.Popen(
        [*watched, python, "-m", "dvc", "repro", "--single-item", target],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _follow_dvc(child: "subprocess.Popen[str]", on_line: OnLine | None, limit_s: float | None) -> _DvcOutcome:
    """Read what *child* prints until it ends, or is ended after *limit_s*."""
    assert child.stdout
    lines: deque[str] = deque(maxlen=_N_LAST_LINES)
    ran, is_over = False, threading.Event()

    def stop_over_limit() -> None:
        is_over.set()
        stop_process_group(child)

    alarm = threading.Timer(limit_s or 0.0, stop_over_limit)
    if limit_s:
        alarm.start()
    try:
        for line in child.stdout:
            lines.append(line.rstrip())
            ran = ran or line.startswith("Running stage")
            if on_line and line.strip():
                on_line(line.rstrip())
        code = child.wait()
    except BaseException:
        stop_process_group(child)
        raise
    finally:
        alarm.cancel()
        child.stdout.close()
    return _DvcOutcome(code, ran, is_over.is_set(), list(lines))


def stop_process_group(child: "subprocess.Popen[str]") -> None:
    """End a child's whole process group: asked first, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        waiter = threading.Thread(target=child.wait, daemon=True)
        waiter.start()
        waiter.join(_STOP_S)
    child.wait()
