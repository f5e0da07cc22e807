"""`tidemill doctor`: check what makes runs fail, and report what is wrong and what to do."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil

from deployments.ops.forecaster_process import describe_served_dataset, find_served_dataset
from deployments.ops.operate import describe_feed_dataset
from deployments.ops.supervisor import list_ports
from deployments.ops.supervisor_state import RECENT_S, describe_failing_parts, read_state
from tasks.alerts.sources import LEAST_FREE_BYTES
from tasks.core.errors import SettingsError, TidemillError
from tasks.core.reports.monitor import MonitorReport
from tasks.edges.current import find_dataset_of_file, find_report
from tasks.edges.dvc_files import find_broken_dvc_files
from tasks.edges.files import find_lock_holder
from tasks.edges.mlflow_aliases import find_moved_alias
from tasks.edges.params import read_dataset, read_document
from tasks.edges.processes import find_port_holder, is_alive, is_free, is_running
from tasks.edges.registry import get_champion_folder, read_champion
from tasks.edges.run_stage import get_checkout_lock_path
from tasks.edges.settings import ROOT, build_child_environment, check_home_is_writable, read_settings
from tasks.edges.tracking import (
    compute_waiting_s,
    get_outbox_folder,
    list_pending_entries,
    list_refused_entries,
    read_last_failure,
)

OLDEST, NEWEST = (3, 11), (3, 13)
_OUTPUTS = (
    "data/clean",
    "models/release",
    "data/decisions/promote",
    "data/reports/monitor",
    "data/decisions/retrain",
)
PROGRAMS = ("git", "dvc", "prefect", "mlflow", "bentoml")


class DoctorFinding(NamedTuple):
    """One check. advice: what to do; empty when all is well."""

    what: str
    found: str
    well: bool = True
    advice: str = ""


def list_findings(root: Path = ROOT) -> list[DoctorFinding]:
    """All checks, in the order in which a run needs what they check."""
    findings = (
        _report_python(),
        _report_versions(root),
        *_report_path(),
        _report_bytecode(),
        _report_home(),
        *_report_params(root),
        *_report_datasets(root),
        *_report_champion(root),
        *_report_forecasts(root),
        *_report_ports(),
        *_report_parts(root),
        _report_mlflow(root),
        _report_disk(),
        _report_dvc_lock(root),
        _report_checkout_lock(root),
        _report_leftovers(),
        _report_folder_sizes(root),
    )
    return list(findings)


def _report_python() -> DoctorFinding:
    version = sys.version_info[:2]
    return DoctorFinding(
        "python",
        sys.version.split()[0],
        OLDEST <= version <= NEWEST,
        "Make the environment with Python 3.11, 3.12 or 3.13: `make run PYTHON=python3.12`.",
    )


def _report_versions(root: Path) -> DoctorFinding:
    """Compare installed versions with requirements.lock; other platforms' lines are skipped."""
    from packaging.requirements import Requirement

    wrong = []
    for line in _parse_pins(root / "requirements.lock"):
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        installed = _find_installed_version(requirement.name)
        if installed is None or installed not in requirement.specifier:
            wrong.append(f"{requirement.name} is {installed or 'missing'}, locked {requirement.specifier}")
    # Five are enough to see
    found = "; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    return DoctorFinding(
        "versions",
        found or "as in requirements.lock",
        not wrong,
        "Install what is locked: `rm -f .venv/.installed-*` and `make install`.",
    )


def _parse_pins(lock: Path) -> Iterator[str]:
    for line in lock.read_text().splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            yield line.removesuffix("\\").strip()


def _find_installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _report_path() -> Iterator[DoctorFinding]:
    bin_folder = Path(sys.executable).parent
    for name in PROGRAMS:
        path = shutil.which(
            name, path=f"{bin_folder}{os.pathsep}{build_child_environment().get('PATH', os.defpath)}"
        )
        is_right = path is not None and (name == "git" or Path(path).parent == bin_folder)
        advice = (
            "Install git."
            if name == "git"
            else (
                "Install what is locked: `make install`; then start with `.venv/bin/tidemill` or put"
                " .venv/bin first on PATH."
            )
        )
        yield DoctorFinding(f"program {name}", path or "not found", is_right, advice)


def _report_bytecode() -> DoctorFinding:
    writes = not sys.dont_write_bytecode
    return DoctorFinding(
        "bytecode",
        "kept" if writes else "not kept: every stage compiles its libraries again, 5-10 s each",
        writes,
        "Unset PYTHONDONTWRITEBYTECODE (`make` does so by itself).",
    )


def _report_home() -> DoctorFinding:
    home = read_settings().home
    try:
        check_home_is_writable()
    except SettingsError as error:
        return DoctorFinding(
            "home", str(error), well=False, advice="Until then neither `run` nor `up` can start."
        )
    return DoctorFinding("home", str(home))


def _report_params(root: Path) -> Iterator[DoctorFinding]:
    """The current dataset's parameters, models and files; `tidemill check` has all datasets'."""
    from deployments.ops.check_datasets import check_datasets

    advice = "Correct params.yaml, or `git checkout params.yaml`; `tidemill check` shows every dataset."
    try:
        checks, document = check_datasets(root), read_document(root)
        current = document.dataset
    except TidemillError as error:
        yield DoctorFinding("params", str(error), well=False, advice=advice)
        return
    faults = next(check.faults for check in checks if check.dataset == current)
    for fault in faults:
        yield DoctorFinding("params", fault, well=False, advice=advice)
    if not faults:
        yield DoctorFinding("params", f"dataset {current}, models {', '.join(document.list_models())}")
    if others := [check.dataset for check in checks if check.faults and not check.current]:
        yield DoctorFinding("other datasets", f"`tidemill check` finds faults in {', '.join(others)}")


def _report_datasets(root: Path) -> Iterator[DoctorFinding]:
    """Which datasets the files and the service are of, if not the current one."""
    try:
        dataset = read_dataset(root)
    except (TidemillError, KeyError, ValueError):
        return  # reported by _report_params
    others = {
        path: other for path in _OUTPUTS if (other := find_dataset_of_file(path, root)) not in {None, dataset}
    }
    found = "; ".join(f"{path} is of {other!r}" for path, other in others.items())
    yield DoctorFinding(
        "files",
        (
            f"{found}; `tidemill run` makes those of {dataset!r}"
            if found
            else f"none of another dataset than {dataset!r}"
        ),
    )
    if (served := find_served_dataset()) is not None:
        yield DoctorFinding(
            "service", f"serves {served!r}", served == dataset, f"{describe_served_dataset(served, dataset)}."
        )


def _report_champion(root: Path) -> Iterator[DoctorFinding]:
    """Whether the champion's files are those that were sealed."""
    from tasks.release.manifest import check_manifest

    try:
        champion = read_champion(read_dataset(root))
        if champion is not None:
            check_manifest(get_champion_folder(champion))
            yield DoctorFinding("champion", f"{champion.version}, its files are those that were sealed")
    except (TidemillError, KeyError, ValueError) as error:
        advice = "If models/release is still that release, promoting it again heals it:"
        yield DoctorFinding("champion", str(error), well=False, advice=f"{advice} `dvc repro -f -s promote`.")


def _report_forecasts(root: Path) -> Iterator[DoctorFinding]:
    """What the monitor found last about the current dataset's champion."""
    try:
        report = find_report(MonitorReport, read_dataset(root), root)
    except (TidemillError, KeyError, ValueError):
        return  # of another version, or reported by _report_params
    if report is not None:
        yield DoctorFinding(
            "forecasts",
            f"{report.verdict}: {report.reason}",
            report.verdict != "degraded",
            "The flow `retraining` trains when it is due; `tidemill run` trains now, and the gate decides."
            " `tidemill page` shows since when; look at what has changed in the source.",
        )


def _report_ports() -> Iterator[DoctorFinding]:
    state, host = read_state(), read_settings().host
    ours = state.addresses if state is not None and is_running(state.supervisor) else {}
    for name, port in list_ports().items():
        what, free, is_up = f"port {port} ({name})", is_free(host, port), name in ours
        if free and is_up:
            found, advice = "free, though `tidemill up` runs", f"`tidemill logs {name}` has the reason."
        else:
            found = "free" if free else "ours, up" if is_up else f"held by {find_port_holder(port)}"
            advice = f"End that program, or set TIDEMILL_{name.upper()}_PORT."
        yield DoctorFinding(what, found, free != is_up, advice)


def _report_parts(root: Path) -> Iterator[DoctorFinding]:
    """Parts of `tidemill up` that do not run, or end again and again."""
    state = read_state()
    if state is None or not is_running(state.supervisor):
        return
    for name, found in describe_failing_parts(state).items():
        yield DoctorFinding(
            f"part {name}",
            found,
            well=False,
            advice=f"`tidemill logs {name}` has the reason; it is started again by itself.",
        )
    with suppress(TidemillError):
        if (advice := describe_feed_dataset(state, read_dataset(root))) is not None:
            yield DoctorFinding("feed", advice, well=False, advice="`tidemill down` and `tidemill up`.")


def _report_mlflow(root: Path) -> DoctorFinding:
    """Entries that MLflow has not received or refuses, and an alias that was moved by hand."""
    n_waiting, set_aside, failure = len(list_pending_entries()), list_refused_entries(), read_last_failure()
    deliver = "`.venv/bin/python -m tasks.edges.mlflow_delivery` delivers"
    found = (
        [f"{n_waiting} entries wait in {get_outbox_folder()}" + (f": {failure}" if failure else "")]
        if n_waiting
        else []
    )
    advice = [f"Start MLflow, or correct TIDEMILL_MLFLOW_URI; then {deliver}."] if failure else []
    if not failure and (waiting_s := compute_waiting_s()) > RECENT_S:
        found.append(f"the oldest since {waiting_s / 60:.0f} min")
        advice.append(f"No delivery has tried them; {deliver}.")
    for folder, reason in list(set_aside.items())[:3]:
        found.append(f"refused: {folder.name}: {reason[:300]}")
    if set_aside:
        folder = next(iter(set_aside)).parent
        found.append(f"{len(set_aside)} entries set aside in {folder}")
        retry = f"move the entry into {get_outbox_folder()}, and {deliver}"
        advice.append(f"Correct what the reason names, {retry}; or remove it, and MLflow does not get it.")
    with suppress(TidemillError):  # of the champion's record, which has a finding of its own
        if moved := find_moved_alias(read_dataset(root)):
            found.append(moved)
            advice.append("The service goes by the registry; set the alias back in MLflow's page.")
    return DoctorFinding(
        "mlflow", "; ".join(found) or "everything is delivered", not advice, " ".join(advice)
    )


def _report_disk() -> DoctorFinding:
    home = read_settings().home
    free = shutil.disk_usage(home if home.exists() else ROOT).free
    return DoctorFinding(
        "disk",
        f"{free / 1e9:.1f} GB free",
        free >= LEAST_FREE_BYTES,
        "Free some space: below is what Tidemill takes; `dvc gc --workspace` empties DVC's cache.",
    )


def _report_dvc_lock(root: Path) -> DoctorFinding:
    """DVC's own files: its lock, which names its holder, and dvc.lock.

    zc.lockfile does not remove it, which does no harm unless a process holds it.
    """
    if broken := find_broken_dvc_files(root):
        return DoctorFinding(
            "dvc lock",
            f"{', '.join(map(str, broken))} cannot be read: a DVC was killed while it wrote",
            well=False,
            advice=f"`tidemill run` removes it; for `dvc repro`: `rm {' '.join(map(str, broken))}`.",
        )
    path = root / ".dvc" / "tmp" / "rwlock"
    held = json.loads(path.read_text()) if path.exists() else {}
    pids = {
        entry["pid"]
        for holders in held.values()
        for entries in holders.values()
        for entry in (entries if isinstance(entries, list) else [entries])
    }
    dead = sorted(pid for pid in pids if not psutil.pid_exists(pid))
    alive = sorted(pids - set(dead))
    found = (
        f"left by process {dead[0]}, which has ended"
        if dead
        else f"held by process {alive[0]}"
        if alive
        else "free"
    )
    return DoctorFinding(
        "dvc lock", found, not dead, f"DVC removes it itself at the next run; if it does not: `rm {path}`."
    )


def _report_checkout_lock(root: Path) -> DoctorFinding:
    holder = find_lock_holder(get_checkout_lock_path(root))
    return DoctorFinding("run lock", f"held by the run of process {holder}" if holder else "free")


def _report_leftovers() -> DoctorFinding:
    """Parts of an `up` whose supervisor is gone."""
    state = read_state()
    if state is None or is_running(state.supervisor):
        return DoctorFinding("left-over processes", "none")
    alive = [f"{part.name} (process {part.pid})" for part in state.parts if is_alive(part)]
    found = ", ".join(alive) or f"none, but {read_settings().home / 'up' / 'state.json'} is there"
    return DoctorFinding(
        "left-over processes",
        found,
        well=False,
        advice="The supervisor of `tidemill up` was killed. `tidemill down` cleans up.",
    )


def _report_folder_sizes(root: Path) -> DoctorFinding:
    folders = [*_list_folders(read_settings().home), root / ".dvc" / "cache", root / "data", root / "models"]
    sizes = {str(path): _count_bytes(path) for path in folders if path.exists()}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:8]
    return DoctorFinding(
        "room", ", ".join(f"{Path(path).name} {size / 1e6:.0f} MB" for path, size in largest) or "nothing yet"
    )


def _list_folders(home: Path) -> list[Path]:
    return sorted(path for path in home.iterdir() if path.is_dir()) if home.exists() else []


def _count_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def convert_findings(findings: list[DoctorFinding]) -> list[dict[str, str | bool]]:
    """Findings as plain data, advice only where something is wrong."""
    return [{**f._asdict(), "advice": "" if f.well else f.advice} for f in findings]
