"""A checkout of its own in a temporary folder, with a small dataset entry, so that a test may
run, kill and change things in it."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"last_value": {}, "window_mean": {"window_steps": 22}, "har": {"windows_steps": [1, 5, 22]}}
FEATURES = {
    "list": [
        {"kind": "lag", "column": "z", "steps": [1, 2, 3, 4, 5]},
        {"kind": "mean", "column": "z", "window_steps": [5, 22]},
        {"kind": "std", "column": "z", "window_steps": [22]},
    ]
}
TRAIN = {
    "n_cutoffs": 120,
    "stride_steps": 5,
    "refit_every_cutoffs": 40,
    "min_train_steps": 500,
    "embargo_steps": 0,
}
LEFT_OUT = ("tests/", "docs/", "infra/")


@dataclass(frozen=True)
class SmallCheckout:
    """root: the folder.

    Everything that runs in it imports its own copy of the code and leaves its state in its own
    home.
    """

    root: Path
    models: tuple[str, ...]
    settings: dict[str, str]

    @property
    def home(self) -> Path:
        return self.root / ".tidemill"

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the caller's Tidemill or Prefect, this environment's programs first,
        compiled code kept."""
        from tasks.edges.settings import build_child_environment

        ours = {
            name: value
            for name, value in build_child_environment().items()
            if not name.startswith(("TIDEMILL_", "PREFECT_API", "PYTHONDONT"))
        }
        ours["PATH"] = f"{Path(sys.executable).parent}:{ours['PATH']}"
        return {**ours, "TIDEMILL_HOME": str(self.home), "PYTHONPATH": str(self.root), **self.settings}

    def start(self, command, **options) -> subprocess.Popen:
        """Start *command* in the checkout, leading a process group of its own."""
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, start_new_session=True, **options
        )

    def run(self, *command, code=0, **environment) -> subprocess.CompletedProcess:
        """Run *command* to its end; stdout and stderr as text, *environment* on top.

        Its exit code must be *code*.
        """
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, (
            f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done

    def tidemill(self, *arguments, code=0, **environment) -> subprocess.CompletedProcess:
        """Run the command line in the checkout."""
        return self.run(sys.executable, "-m", "deployments.cli", *arguments, code=code, **environment)

    def repro(self, *arguments) -> subprocess.CompletedProcess:
        """`dvc repro`."""
        return self.run(sys.executable, "-m", "dvc", "repro", *arguments)

    def alive(self) -> list[list[str]]:
        """Command lines of the processes that work in the checkout."""
        found = []
        for process in psutil.process_iter(["cwd", "cmdline", "status"]):
            cwd = process.info["cwd"]
            if cwd and Path(cwd) == self.root and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.info["cmdline"])
        return found


def small_checkout(folder: Path, *, whole: bool = False, **settings: str) -> SmallCheckout:
    """Copy the tracked and the new files of this checkout into *folder*, as a repository of its
    own. whole: with params.yaml as it is. settings: TIDEMILL_* and others."""
    root = folder / "checkout"
    for name in _files():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    if not whole:
        _shrink(root / "params.yaml")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "small"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    models = yaml.safe_load((root / "params.yaml").read_text())["models"]
    return SmallCheckout(root.resolve(), tuple(models), settings)


def _files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [
        name
        for name in listed.split("\0")
        if name and not name.startswith(LEFT_OUT) and (ROOT / name).is_file()
    ]


def _shrink(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    name, entry = document["dataset"], document["datasets"][document["dataset"]]
    small = {"models": MODELS, "features": FEATURES, "train": TRAIN}
    document["models"] = list(MODELS)
    document["datasets"] = {name: {**entry, **small}}
    path.write_text(yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=200))
