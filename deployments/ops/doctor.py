"""`tidemill doctor`: looks where runs have stumbled, and says what is wrong and what to do."""

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from deployments.ops.forecaster_process import explain_served, served_dataset
from deployments.ops.supervisor import ports, read_state
from tasks.core.errors import TidemillError
from tasks.edges.current import dataset_of
from tasks.edges.params import read_dataset, read_models
from tasks.edges.processes import holder_of, is_alive, is_free, is_running
from tasks.edges.settings import ROOT, child_environment, settings
from tasks.edges.tracking import last_failure, outbox, pending, refused

OLDEST, NEWEST = (3, 11), (3, 13)
LEAST_FREE_BYTES = 2_000_000_000  # a run leaves some 100 MB; below this, a few releases and Prefect's database fill the disk
_OUTPUTS = ("data/clean", "models/release", "data/decisions/promote", "data/reports/monitor", "data/decisions/retrain")
PROGRAMS = ("git", "dvc", "prefect", "mlflow", "bentoml")


class Finding(NamedTuple):
    """One look. advice: what to do; empty when it is well."""

    what: str
    found: str
    well: bool = True
    advice: str = ""


def examine(root: Path = ROOT) -> list[Finding]:
    """Every look, in the order in which things are needed."""
    looks = (
        _python(),
        _versions(root),
        *_path(),
        _bytecode(),
        _params(root),
        *_datasets(root),
        *_ports(),
        _mlflow(),
        _disk(),
        _dvc_lock(root),
        _checkout_lock(root),
        _leftovers(),
        _room(root),
    )
    return list(looks)


def _python() -> Finding:
    version = sys.version_info[:2]
    return Finding(
        "python",
        sys.version.split()[0],
        OLDEST <= version <= NEWEST,
        "Make the environment with Python 3.11, 3.12 or 3.13: `make run PYTHON=python3.12`.",
    )


def _versions(root: Path) -> Finding:
    """Installed versions against requirements.lock; markers of other platforms are not ours to judge."""
    from packaging.requirements import Requirement  # noqa: PLC0415  (with its version parser, 50 ms)

    wrong = []
    for line in _pins(root / "requirements.lock"):
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        if (have := _installed(wanted.name)) is None or have not in wanted.specifier:
            wrong.append(f"{wanted.name} is {have or 'missing'}, locked {wanted.specifier}")
    found = "; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")  # noqa: PLR2004  (five are enough to see)
    return Finding(
        "versions", found or "as in requirements.lock", not wrong, "Install what is locked: `rm -f .venv/.installed-*` and `make install`."
    )


def _pins(lock: Path) -> Iterator[str]:
    for line in lock.read_text().splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            yield line.removesuffix("\\").strip()


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _path() -> Iterator[Finding]:
    bin_folder = Path(sys.executable).parent
    for name in PROGRAMS:
        path = shutil.which(name, path=f"{bin_folder}{os.pathsep}{child_environment().get('PATH', os.defpath)}")
        ours = path is not None and (name == "git" or Path(path).parent == bin_folder)
        advice = (
            "Install git."
            if name == "git"
            else "Install what is locked: `make install`; then start with `.venv/bin/tidemill` or put .venv/bin first on PATH."
        )
        yield Finding(f"program {name}", path or "not found", ours, advice)


def _bytecode() -> Finding:
    writes = not sys.dont_write_bytecode
    return Finding(
        "bytecode",
        "kept" if writes else "not kept: every stage compiles its libraries again, 5-10 s each",
        writes,
        "Unset PYTHONDONTWRITEBYTECODE (`make` does so by itself).",
    )


def _params(root: Path) -> Finding:
    try:
        return Finding("params", f"dataset {read_dataset(root)}, models {', '.join(read_models(root))}")
    except (TidemillError, KeyError, ValueError) as error:
        return Finding("params", str(error), well=False, advice="Correct params.yaml, or `git checkout params.yaml`.")


def _datasets(root: Path) -> Iterator[Finding]:
    """Whose files are here, and for whom the service answers, beside the current dataset."""
    try:
        dataset = read_dataset(root)
    except (TidemillError, KeyError, ValueError):
        return  # said already
    others = {path: found for path in _OUTPUTS if (found := dataset_of(path, root)) not in {None, dataset}}
    found = "; ".join(f"{path} is of {other!r}" for path, other in others.items())
    yield Finding("files", f"{found}; `tidemill run` makes those of {dataset!r}" if found else f"none of another dataset than {dataset!r}")
    if (served := served_dataset()) is not None:
        yield Finding("service", f"serves {served!r}", served == dataset, f"{explain_served(served, dataset)}.")


def _ports() -> Iterator[Finding]:
    state, host = read_state(), settings().host
    up = state is not None and is_running(state.supervisor)
    for name, port in ports().items():
        free = is_free(host, port)
        found = "free" if free else "ours, up" if up else f"held by {holder_of(port)}"
        yield Finding(f"port {port} ({name})", found, free or up, f"End that program, or set TIDEMILL_{name.upper()}_PORT.")


def _mlflow() -> Finding:
    """What MLflow has not taken yet, and what it refuses."""
    n_waiting, set_aside, failure = len(pending()), refused(), last_failure()
    deliver = "`.venv/bin/python -m tasks.edges.mlflow_delivery` delivers"
    found = [f"{n_waiting} entries wait in {outbox()}" + (f": {failure}" if failure else "")] if n_waiting else []
    advice = [f"Start MLflow, or correct TIDEMILL_MLFLOW_URI; then {deliver}."] if failure else []
    for folder, reason in list(set_aside.items())[:3]:
        found.append(f"refused: {folder.name}: {reason[:300]}")
    if set_aside:
        folder = next(iter(set_aside)).parent
        found.append(f"{len(set_aside)} entries set aside in {folder}")
        again = f"move the entry into {outbox()}, and {deliver}"
        advice.append(f"Correct what the reason names, {again}; or remove it, and MLflow goes without.")
    return Finding("mlflow", "; ".join(found) or "everything is delivered", not advice, " ".join(advice))


def _disk() -> Finding:
    home = settings().home
    free = shutil.disk_usage(home if home.exists() else ROOT).free
    return Finding(
        "disk",
        f"{free / 1e9:.1f} GB free",
        free >= LEAST_FREE_BYTES,
        "Free some room: below is what ours takes; `dvc gc --workspace` empties DVC's cache.",
    )


def _dvc_lock(root: Path) -> Finding:
    """DVC's own lock: a file that names its holder; zc.lockfile leaves it behind, harmless unless somebody holds it."""
    path = root / ".dvc" / "tmp" / "rwlock"
    content = path.read_text() if path.exists() else ""
    try:
        held = json.loads(content or "{}")
    except ValueError:
        return Finding("dvc lock", f"{path} cannot be read", well=False, advice=f"Remove it when no DVC runs: `rm {path}`.")
    pids = {
        entry["pid"] for holders in held.values() for entries in holders.values() for entry in (entries if isinstance(entries, list) else [entries])
    }
    dead = sorted(pid for pid in pids if not psutil.pid_exists(pid))
    alive = sorted(pids - set(dead))
    found = f"left by process {dead[0]}, which has ended" if dead else f"held by process {alive[0]}" if alive else "free"
    return Finding("dvc lock", found, not dead, f"DVC forgets it by itself at the next run; if it does not: `rm {path}`.")


def _checkout_lock(root: Path) -> Finding:
    path = root / ".dvc" / "tmp" / "tidemill.lock"
    holder = _holder(path)
    return Finding("run lock", f"held by the run of process {holder}" if holder else "free")


def _holder(path: Path) -> str | None:
    """Process id in a lock file that somebody holds, None when nobody does."""
    if not path.exists():
        return None
    with path.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return handle.read() or "unknown"
    return None


def _leftovers() -> Finding:
    """Parts of an `up` whose supervisor is gone."""
    state = read_state()
    if state is None or is_running(state.supervisor):
        return Finding("left-over processes", "none")
    left = [f"{marked.name} (process {marked.pid})" for marked in state.parts if is_alive(marked)]
    found = ", ".join(left) or f"none, but {settings().home / 'up' / 'state.json'} is there"
    return Finding("left-over processes", found, well=False, advice="The supervisor of `tidemill up` was killed. `tidemill down` cleans up.")


def _room(root: Path) -> Finding:
    places = [*_folders(settings().home), root / ".dvc" / "cache", root / "data", root / "models"]
    sizes = {str(path): _bytes(path) for path in places if path.exists()}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:8]
    return Finding("room", ", ".join(f"{Path(path).name} {size / 1e6:.0f} MB" for path, size in largest) or "nothing yet")


def _folders(home: Path) -> list[Path]:
    return sorted(path for path in home.iterdir() if path.is_dir()) if home.exists() else []


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def as_data(findings: list[Finding]) -> list[dict[str, Any]]:
    """Findings as plain data, advice only where something is wrong."""
    return [{**f._asdict(), "advice": "" if f.well else f.advice} for f in findings]
