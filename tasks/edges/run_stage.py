"""One stage, run by DVC, in a process group of its own that dies with us.

Both doors, laptop and flow, end here. DVC decides whether the stage must run. One run at a time
works in a checkout: a lock file names the process that holds it.
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

from tasks.core.errors import StageError
from tasks.edges.files import hold_lock
from tasks.edges.params import STAGES, read_models
from tasks.edges.settings import ROOT, build_child_environment, read_settings

LOCK_WAIT_S = 900.0  # a whole run on two cores takes a few minutes; longer means that something hangs
_TAIL_LINES = 40
_STOP_S = 5.0

Lines = Callable[[str], None]


@dataclass(frozen=True)
class StageResult:
    """What happened: *ran* is False when DVC found nothing changed. log: the last lines printed."""

    stage: str
    ran: bool
    seconds: float
    log: str


def run_stage(
    stage: str, root: Path = ROOT, on_line: Lines | None = None, limit_s: float | None = None
) -> StageResult:
    """Bring *stage* up to date, models of `train` side by side.

    Raises StageError with the stage's last lines when it fails, or takes longer than *limit_s*
    after the lock was ours; it is ended then.
    """
    if stage not in STAGES:
        raise StageError(f"No stage {stage!r}; there are {', '.join(STAGES)}.")
    started = time.monotonic()
    with wait_for_checkout_lock(root, on_line):
        targets = [f"train@{model}" for model in reversed(read_models(root))] if stage == "train" else [stage]
        side_by_side = min(read_settings().jobs, len(targets))
        workers = read_settings().workers or max(1, read_settings().n_workers // side_by_side)
        with ThreadPoolExecutor(side_by_side) as pool:
            results = list(
                pool.map(lambda target: _run_dvc(target, root, on_line, limit_s, workers), targets)
            )
    ran = any(ran for ran, _ in results)
    return StageResult(stage, ran, time.monotonic() - started, "\n".join(log for _, log in results))


def delete_unused_cache(root: Path = ROOT) -> bool:
    """Keep DVC's cache within the setting `keep_cache_mb`: beyond it, everything goes that no
    current artifact needs.

    Returns whether it did.
    """
    cache = root / ".dvc" / "cache"
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    if size <= read_settings().keep_cache_mb * 1_000_000:
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
def wait_for_checkout_lock(root: Path, on_line: Lines | None = None) -> Iterator[None]:
    """Hold the checkout.

    Waits for another run and says so; raises StageError with its process id after LOCK_WAIT_S.
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


def _run_dvc(
    target: str, root: Path, on_line: Lines | None, limit_s: float | None, workers: int
) -> tuple[bool, str]:
    python = sys.executable
    command = [
        python,
        "-m",
        "tasks.edges.lifeline",
        "--parent",
        str(os.getpid()),
        python,
        "-m",
        "dvc",
        "repro",
        "--single-item",
        target,
    ]
    environment = build_child_environment(
        PATH=f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        PYTHONUNBUFFERED="1",
        TIDEMILL_WORKERS=str(workers),
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    ran = False
    child = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert child.stdout
    output = child.stdout
    over = threading.Event()

    def end() -> None:
        over.set()
        stop_process_group(child)

    alarm = threading.Timer(limit_s or 0.0, end)
    if limit_s:
        alarm.start()
    try:
        for line in output:
            tail.append(line.rstrip())
            ran = ran or line.startswith("Running stage")
            if on_line and line.strip():
                on_line(line.rstrip())
        code = child.wait()
    except BaseException:
        stop_process_group(child)
        raise
    finally:
        alarm.cancel()
        output.close()
    if over.is_set():
        raise StageError(
            f"Stage {target!r} took longer than its limit of {limit_s:.0f} s and was ended. Its last lines:\n"
            + "\n".join(tail)
        )
    if code != 0:
        raise StageError(f"Stage {target!r} ended with code {code}. Its last lines:\n" + "\n".join(tail))
    return ran, "\n".join(tail)


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
