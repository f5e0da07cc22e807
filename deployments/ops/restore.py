"""`tidemill restore`: data, features and parameters of a release, in a worktree of its own."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

from tasks.core.errors import ReleaseError
from tasks.core.reports.package import Provenance
from tasks.edges.artifacts import read_last_report, write_text
from tasks.edges.params import STAGES, read_models
from tasks.edges.run_stage import wait_for_checkout_lock
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import ROOT, build_child_environment, read_settings
from tasks.release.kept import get_kept_release

_LATER_STAGES = STAGES[STAGES.index("package") :]  # whose outputs the lock has of an earlier run


class RestoredRelease(NamedTuple):
    """folder: the worktree. has_other_code: the release was built with uncommitted code."""

    version: str
    commit: str
    folder: Path
    n_files: int
    has_other_code: bool


def restore_release(
    dataset: str, version: str, folder: Path | None = None, root: Path = ROOT
) -> RestoredRelease:
    """Make a git worktree of the release's commit, with its params.yaml and what DVC has of it.

    Outputs of the stages before `package` come from DVC's cache, models/release from the registry.
    folder: of the worktree; by default in home. Nothing of the checkout *root* changes.
    Raises ReleaseError with the reason when the release is not kept, its commit is not in this
    repository, the folder is there already, or DVC's cache has not all of its files any more.
    """
    record, kept = get_kept_release(dataset, version)
    provenance = read_last_report(kept / "provenance.json", Provenance)
    commit = None if provenance is None else provenance.code.commit
    if provenance is None or commit is None or not (kept / "dvc.lock").exists():
        raise ReleaseError(
            f"{record.version} names no commit or has no dvc.lock: it was built without git, or not by the"
            " stage `package`. It can be served, but not restored."
        )
    folder = folder or read_settings().home / "worktrees" / f"{encode_name(dataset)}-{record.version}"
    if folder.exists():
        raise ReleaseError(
            f"{folder} is there already. Give another one with `--into`, or remove it:"
            f" `git worktree remove --force {folder}`."
        )
    _run(["git", "worktree", "add", "--detach", str(folder.absolute()), commit], root, f"the commit {commit}")
    try:
        n_files = _fill_worktree(folder, kept, root, record.version)
    except BaseException:
        _run(["git", "worktree", "remove", "--force", str(folder.absolute())], root, "the worktree")
        raise
    return RestoredRelease(
        record.version, commit, folder, n_files, has_other_code=provenance.code.uncommitted is not None
    )


def _fill_worktree(folder: Path, kept: Path, root: Path, version: str) -> int:
    """How many files came from DVC's cache."""
    lock = yaml.safe_load((kept / "dvc.lock").read_text())
    models = {"", *read_models(kept)}  # the lock may have those that were dropped before
    lock["stages"] = {
        name: stage
        for name, stage in lock.get("stages", {}).items()
        if name.partition("@")[0] not in _LATER_STAGES and name.partition("@")[2] in models
    }
    write_text(folder / "dvc.lock", yaml.safe_dump(lock, sort_keys=False))
    shutil.copyfile(kept / "params.yaml", folder / "params.yaml")
    cache = (root / ".dvc/cache").absolute()
    write_text(folder / ".dvc/config.local", f"[cache]\n    dir = {cache}\n")
    with wait_for_checkout_lock(root):  # so that no run removes what is being read
        _run(
            [sys.executable, "-m", "dvc", "checkout", "--force", *lock["stages"]],
            folder,
            f"what DVC's cache has of {version}",
        )
    shutil.copytree(kept, folder / "models/release", dirs_exist_ok=True)
    paths = [out["path"] for stage in lock["stages"].values() for out in stage.get("outs", ())]
    return sum(
        file.is_file()
        for path in paths
        for file in ((folder / path).rglob("*") if (folder / path).is_dir() else [folder / path])
    )


def _run(command: list[str], folder: Path, what: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=build_child_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ReleaseError(
            f"Nothing was restored: {what} cannot be read here. `{' '.join(command[:4])}` says:\n{lines}\n"
            "Restore in a checkout that has the commit, and whose cache has the files (`dvc pull`, or a"
            " larger TIDEMILL_KEEP_CACHE_MB from then on)."
        )
