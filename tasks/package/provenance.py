"""Where a release comes from: commit, uncommitted code, versions, the evaluation's figures.

It is outside the digest, and has no host names and paths.
"""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.package import CodeState, EvaluationFigures

LIBRARIES = (
    "bentoml",
    "catboost",
    "fastapi",
    "holidays",
    "lightgbm",
    "lightning",
    "numpy",
    "onnx",
    "onnxruntime",
    "polars",
    "pydantic",
    "scikit-learn",
    "scipy",
    "skl2onnx",
    "torch",
    "xgboost",
)  # fmt: skip  (those whose version can change a forecast or how it is served)
# Without dvc.lock, which runs write
CODE = (
    "tasks",
    "flows",
    "deployments",
    "own",
    "dvc.yaml",
    "params.yaml",
    "pyproject.toml",
    "requirements.lock",
)


def read_code_state(checkout: Path) -> CodeState:
    """The state of the files that can change a release."""
    commit = _run_git(checkout, "rev-parse", "HEAD")
    if commit is None:
        return CodeState(commit=None, uncommitted=None)
    changed = _run_git(checkout, "diff", "HEAD", "--no-ext-diff", "--binary", "--", *CODE) or b""
    untracked = (
        _run_git(checkout, "ls-files", "--others", "--exclude-standard", "-z", "--", *CODE) or b""
    ).split(b"\0")
    digest = hashlib.sha256(changed)
    for name in filter(None, sorted(untracked)):
        path = checkout / name.decode()
        digest.update(name + b"\0" + (path.read_bytes() if path.is_file() else b""))
    return CodeState(
        commit=commit.decode().strip(),
        uncommitted=digest.hexdigest() if changed or any(untracked) else None,
    )


def list_versions() -> dict[str, str]:
    """Versions of Python and of the libraries behind a forecast."""
    return {
        "python": platform.python_version(),
        **{name: number for name in LIBRARIES if (number := _find_version(name))},
    }


def build_metrics(evaluation: EnsembleReport, model: str) -> EvaluationFigures:
    """The figures of *model* that the service and the card show."""
    losses = {name: scores.primary for name, scores in evaluation.scores.items()}
    return EvaluationFigures(
        primary_score=evaluation.primary_score,
        score=losses.get(model),
        baseline=evaluation.baseline,
        baseline_score=losses.get(evaluation.baseline),
        n_cutoffs=evaluation.n_cutoffs_scored,
        level=evaluation.coverage.level,
        coverage_frac=evaluation.coverage.overall,
    )


def _find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _run_git(checkout: Path, *arguments: str) -> bytes | None:
    try:
        return subprocess.run(
            ["git", "-C", str(checkout), *arguments], check=True, capture_output=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None  # a release can be built from an archive, where there is no git
