"""MLflow as a log.

A stage leaves its run in an outbox within milliseconds; `tasks.edges.mlflow_delivery` delivers it.
Importing mlflow takes 4 s alone and 9 s with its database layer, so eleven stages must not each pay
it. An entry of the outbox is `<home>/mlflow/outbox/<time>-<name>/` with `entry.json` and
`artifacts/`; it appears by rename and is removed when it is delivered.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.edges.artifacts import write_folder, write_json
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import ROOT, read_settings

MAX_POINTS = 200  # of a stepped series; a chart shows no more, and MLflow keeps each as a row
REASON = "refused.json"
ENTRY_TAG = "tidemill.entry"  # of a run: its key in the outbox
# Shown as runs with figures; otherwise MLflow treats it as a chat application
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

Steps = Mapping[str, Sequence[tuple[int, float]]]
Point = tuple[str, float, int, int]  # name, value, step, time in ms since 1970


class TrainedModel(NamedTuple):
    """The training of one model.

    data_hash: of the feature table; the trainings on one table are one run with a child for each.
    key, started_ns: of its run while it was live. epochs: all that it reported.
    """

    dataset: str
    model: str
    data_hash: str
    key: str | None = None
    started_ns: int | None = None
    epochs: Sequence[Point] = ()

    @property
    def tags(self) -> dict[str, str]:
        """Those of its runs."""
        return {
            "tidemill.data": self.data_hash,
            "tidemill.dataset": self.dataset,
            "tidemill.model": self.model,
        }


def log_run(
    experiment: str,
    run_name: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    artifacts: Sequence[Path] = (),
    steps: Steps | None = None,
    parent: str | None = None,
    ended_ns: int | None = None,
    training: TrainedModel | None = None,
) -> str:
    """Leave one finished run in the outbox; its key there.

    params: nested mappings become dotted names.
    metrics: NaN and infinite ones are left out.
    tags: with `tidemill.digest`, or `tidemill.data` (the hash of the data); the commit is added.
    artifacts: files or folders, copied now.
    steps: series over cutoffs as (step, value), thinned to MAX_POINTS.
    parent: key of the run that it is nested in.
    ended_ns: when it ended (None: now); with it the same run_name is the same run, however often it
    is left.
    training: of which it is the run, or a part; it is nested in the run of all models on that data.
    It never fails the stage: a full disk is reported on stderr.
    """
    if not {"tidemill.digest", "tidemill.data"} & set(tags):
        raise ValueError(
            f"Run {run_name!r} has tags {sorted(tags)}; it needs `tidemill.digest` or `tidemill.data`, by"
            " which runs are found."
        )
    entry = {
        "kind": "run",
        "experiment": experiment,
        "name": run_name,
        "params": {k: str(v)[:6000] for k, v in _iterate_params(params)},
        "metrics": [
            *([k, float(v), 0] for k, v in metrics.items() if _is_finite(v)),
            *_iterate_thinned(steps or {}),
            *_iterate_thinned_epochs(() if training is None else training.epochs),
        ],
        "tags": {"tidemill.commit": fetch_commit_id(), **{k: str(v)[:5000] for k, v in tags.items()}},
        "parent": parent,
        "training": None if training is None else training.data_hash,
        "started_ns": None if training is None else training.started_ns,
    }
    key = None if training is None or ended_ns is not None else training.key
    return _write_entry(entry, run_name, artifacts, ended_ns, key)


def log_training(trained: TrainedModel, params: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Leave the run of one model in the outbox.

    metrics: as `tasks.train` scores them. Overall and by series they are figures, by year or cutoff
    they are stepped series.
    """
    figures = {f"{part}.{k}": v for part, k, v in _iterate_figures(metrics)}
    log_run(
        trained.dataset,
        trained.model,
        params,
        figures,
        trained.tags,
        steps=_build_metric_series(metrics),
        training=trained,
    )


def log_promotion(dataset: str, digest: str, version: str, folder: Path, tags: Mapping[str, str]) -> None:
    """Leave the registration of a new champion in the outbox.

    That is a version of the registered model *dataset* with the alias `champion`.
    """
    entry = {
        "kind": "champion",
        "dataset": dataset,
        "digest": digest,
        "source": str(folder),
        "tags": {
            "tidemill.digest": digest,
            "tidemill.version": version,
            **{k: str(v)[:5000] for k, v in tags.items()},
        },
    }
    _write_entry(entry, f"champion-{version}", ())


def log_challenger(dataset: str, digest: str, folder: Path, *, is_active: bool) -> None:
    """Leave the registration of a rollout's challenger in the outbox.

    That is a version with the alias `challenger` while its rollout is active.
    """
    entry = {
        "kind": "challenger",
        "dataset": dataset,
        "digest": digest,
        "source": str(folder),
        "is_active": is_active,
        "tags": {"tidemill.digest": digest},
    }
    _write_entry(entry, f"challenger-{digest[:12]}", ())


def list_pending_entries() -> list[Path]:
    """Entries of the outbox that are not delivered yet, oldest first."""
    return sorted(path for path in get_outbox_folder().glob("*") if not path.name.startswith("."))


def compute_waiting_s() -> float:
    """How long the oldest entry of the outbox has waited; 0 without one."""
    since = [path.stat().st_mtime for path in list_pending_entries() if path.exists()]
    return max(0.0, time.time() - min(since)) if since else 0.0


def has_news() -> bool:
    """Whether an entry waits that no delivery has tried yet.

    False while an address does not answer, so that a run with nothing new stays quick.
    """
    if not (pending := list_pending_entries()):
        return False
    path = get_failure_path()
    return not path.exists() or pending[-1].name > path.read_text().split("\n")[0]


def list_refused_entries() -> dict[Path, str]:
    """Entries that MLflow refuses, with their reasons; oldest first.

    One that is moved back into the outbox is tried again.
    """
    folders = sorted(
        path for path in (get_outbox_folder().parent / "refused").glob("*") if (path / REASON).exists()
    )
    return {folder: str(json.loads((folder / REASON).read_text())["reason"]) for folder in folders}


def read_last_failure() -> str | None:
    """Why the last delivery ended early; None when it did not, or when no entry waits any more."""
    path = get_failure_path()
    lines = path.read_text().splitlines() if path.exists() and list_pending_entries() else []
    return lines[1] if len(lines) > 1 else None


def get_outbox_folder() -> Path:
    """Where undelivered entries are."""
    return read_settings().home / "mlflow" / "outbox"


def fetch_commit_id(root: Path = ROOT) -> str:
    """The commit that is checked out, `unknown` where there is no git."""
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def build_entry_key(name: str, time_ns: int) -> str:
    """The key of an entry of this process, by which MLflow finds its run."""
    return f"{time_ns:020d}-{os.getpid()}-{_shorten(name)}"


def _shorten(name: str) -> str:
    return encode_name(name)[:150]  # of a folder, and in a filter of MLflow's


def _write_entry(
    entry: Mapping[str, Any],
    name: str,
    artifacts: Sequence[Path],
    ended_ns: int | None = None,
    key: str | None = None,
) -> str:
    now_ns = time.time_ns()
    if key is None:
        key = build_entry_key(name, now_ns) if ended_ns is None else f"{ended_ns:020d}-{_shorten(name)}"
    entry = {**entry, "ended_ns": now_ns if ended_ns is None else ended_ns}
    try:
        with write_folder(get_outbox_folder() / key) as folder:
            write_json(folder / "entry.json", entry)
            for path in artifacts:
                (folder / "artifacts").mkdir(exist_ok=True)
                copy = shutil.copytree if path.is_dir() else shutil.copy2
                copy(path, folder / "artifacts" / path.name)
    except OSError as error:
        print(f"The run {name!r} was not kept for MLflow: {error}.", file=sys.stderr)
    return key


def get_artifacts_folder() -> Path:
    """Where MLflow keeps the files of runs, unless it is elsewhere."""
    return read_settings().home.absolute() / "mlflow" / "artifacts"


def get_failure_path() -> Path:
    """What the last delivery that failed left: its newest entry, and why it failed."""
    return get_database_path().with_name("tried")


def get_database_path() -> Path:
    """MLflow's local database."""
    return read_settings().home / "mlflow" / "mlflow.db"


def _iterate_params(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _iterate_params(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _iterate_figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(part, name, figure) of `overall`, and of each row of `by_series` with its series."""
    parts = [
        ("overall", metrics.get("overall", {})),
        *((f"series.{row['series_id']}", row) for row in metrics.get("by_series", ())[:MAX_POINTS]),
    ]
    for part, row in parts:
        yield from ((part, k, v) for k, v in row.items() if isinstance(v, int | float))


def _build_metric_series(metrics: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """The rows of `by_year` and `by_cutoff` as series by year, or by the row's number."""
    series: dict[str, list[tuple[int, float]]] = {}
    for part in ("by_year", "by_cutoff"):
        for index, row in enumerate(metrics.get(part, ())):
            step = row.get("year", row.get("cutoff", index))
            for name, value in row.items():
                if name not in {"year", "cutoff"} and isinstance(value, int | float):
                    series.setdefault(f"{part}.{name}", []).append((step, float(value)))
    return series


def _iterate_thinned(steps: Steps) -> Iterator[list[Any]]:
    for name, points in steps.items():
        finite = [point for point in points if _is_finite(point[1])]
        every = max(1, -(-len(finite) // MAX_POINTS))
        yield from ([name, float(value), int(step)] for step, value in finite[::every])


def _iterate_thinned_epochs(epochs: Sequence[Point]) -> Iterator[list[Any]]:
    by_name: dict[str, list[Point]] = {}
    for point in epochs:
        by_name.setdefault(point[0], []).append(point)
    for points in by_name.values():
        yield from (list(point) for point in points[:: max(1, -(-len(points) // MAX_POINTS))])


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(float(value)) < float("inf")
