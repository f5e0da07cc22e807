"""Whether a release answers, tried in a process of its own before it becomes champion.

`python -m tasks.release.warm_up FOLDER` loads it and forecasts once. A graph that crashes the
library, takes all memory or never ends hurts that process alone.
"""

import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tasks.core.errors import ReleaseError
from tasks.core.frames import get_newest_known_at
from tasks.edges.settings import ROOT, build_child_environment
from tasks.release.load import load_release
from tasks.release.predict import predict_cutoffs

MAX_BYTES = 4_000_000_000  # of the process; a release of a thousand series takes a tenth
LIMIT_S = 60.0


def check_release_answers(folder: Path) -> None:
    """Verify, load and forecast in a child. Raises ReleaseError with what it said."""
    command = [sys.executable, "-m", "tasks.release.warm_up", str(folder.absolute())]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=build_child_environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ReleaseError(f"{folder}: it has not answered within {LIMIT_S:.0f} s.") from error
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise ReleaseError(lines[-1] if lines else f"{folder}: its process ended with {done.returncode}.")


def main(folder: Path) -> None:
    """Load the release in *folder* and forecast once, within MAX_BYTES."""
    with suppress(ValueError, OSError):  # a system that has no such limit, or a lower one
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    release = load_release(folder)
    if predict_cutoffs(release, release.rows, [get_newest_known_at(release.rows)]).is_empty():
        raise ReleaseError(f"{folder}: it forecasts no series from its own rows.")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except ReleaseError as error:
        sys.exit(" ".join(str(error).split()))
