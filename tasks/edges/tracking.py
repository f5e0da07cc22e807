"""MLflow as a log. A stage leaves its run in an outbox within milliseconds; one process delivers the outbox with MLflow's own client.

Importing mlflow takes 4 s alone and 9 s with its database layer, so eleven stages must not each pay it. An entry of the outbox is
`<home>/mlflow/outbox/<time>-<name>/` with `entry.json` and `artifacts/`; it appears by rename and goes when it is delivered.
An address that does not answer, or a kill half-way, leaves the entry for the next delivery, and an entry delivered twice is one run.
An entry that MLflow refuses for what it holds goes to `<home>/mlflow/refused/` with the reason, so that it stops no other.
`python -m tasks.edges.tracking` delivers.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.edges.artifacts import replacing, write_json, write_text
from tasks.edges.lifeline import die_with_parent
from tasks.edges.mlflow_names import mlflow_name, mlflow_names, tags_of_long_names
from tasks.edges.settings import ROOT, set_for_mlflow, settings

MAX_POINTS = 200  # of a stepped series; a picture shows no more, and MLflow keeps each as a row
_BATCH = 900  # MLflow takes 1,000 metrics, 100 params and 100 tags in one call
_WAIT_S = 120.0  # a first delivery makes the database: 13 s seen on a busy machine
_MAX_TRIES = 3  # deliveries in which MLflow answers and one entry fails all the same, before it is set aside
_REASON = "refused.json"
_KEY = "tidemill.entry"
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # opens as runs with figures; MLflow takes it for a chat application otherwise

Steps = Mapping[str, Sequence[tuple[int, float]]]


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
) -> str:
    """Leave one finished run in the outbox; its key there.

    params: nested mappings become dotted names. metrics: NaN and infinite ones are left out. tags must hold `tidemill.digest`, or
    `tidemill.data` (the hash of the data); the commit is added. artifacts: files or folders, copied now. steps: series over cutoffs
    as (step, value), thinned to MAX_POINTS. parent: key of the run that it is nested in. ended_ns: when it ended (None: now); with it the same run_name is
    the same run, however often it is left. It never fails the stage: a full disk is said on stderr.
    """
    if not {"tidemill.digest", "tidemill.data"} & set(tags):
        raise ValueError(f"Run {run_name!r} has tags {sorted(tags)}; it needs `tidemill.digest` or `tidemill.data`, by which runs are found.")
    entry = {
        "kind": "run",
        "experiment": experiment,
        "name": run_name,
        "params": {k: str(v)[:6000] for k, v in _flat(params)},
        "metrics": [[k, float(v), 0] for k, v in metrics.items() if _finite(v)] + list(_thinned(steps or {})),
        "tags": {"tidemill.commit": commit(), **{k: str(v)[:5000] for k, v in tags.items()}},
        "parent": parent,
    }
    return _put(entry, run_name, artifacts, ended_ns)


def log_training(dataset: str, model: str, params: Mapping[str, Any], metrics: Mapping[str, Any], data_hash: str) -> None:
    """The run of one model: `metrics` as `tasks.train` scores them; overall and by series as figures, lists by year or cutoff as series."""
    plain = {f"{part}.{k}": v for part, k, v in _figures(metrics)}
    log_run(dataset, model, params, plain, {"tidemill.data": data_hash, "tidemill.dataset": dataset, "tidemill.model": model}, steps=_series(metrics))


def log_promotion(dataset: str, digest: str, version: str, folder: Path, tags: Mapping[str, str]) -> None:
    """Leave the registration of a new champion in the outbox: a version of the registered model *dataset* with the alias `champion`."""
    entry = {
        "kind": "champion",
        "dataset": dataset,
        "digest": digest,
        "source": str(folder),
        "tags": {"tidemill.digest": digest, "tidemill.version": version, **{k: str(v)[:5000] for k, v in tags.items()}},
    }
    _put(entry, f"champion-{version}", ())


def pending() -> list[Path]:
    """Entries of the outbox that are not delivered yet, oldest first."""
    return sorted(path for path in outbox().glob("*") if not path.name.startswith("."))


def has_news() -> bool:
    """Whether an entry waits that no delivery has tried yet. False while an address does not answer, so that a run with nothing new stays quick."""
    waiting = pending()
    return bool(waiting) and (not _tried().exists() or waiting[-1].name > _tried().read_text().split("\n")[0])


def refused() -> dict[Path, str]:
    """Entries that MLflow refuses, set aside, with their reasons; oldest first. Moved back into the outbox, one is tried again."""
    folders = sorted(path for path in (outbox().parent / "refused").glob("*") if (path / _REASON).exists())
    return {folder: str(json.loads((folder / _REASON).read_text())["reason"]) for folder in folders}


def last_failure() -> str | None:
    """Why the last delivery ended early, None when it did not, or when nothing waits any more."""
    lines = _tried().read_text().splitlines() if _tried().exists() and pending() else []
    return lines[1] if len(lines) > 1 else None


def outbox() -> Path:
    """Where undelivered entries lie."""
    return settings().home / "mlflow" / "outbox"


def _prepare() -> None:
    """Create or migrate the local database. A new one takes its place by rename when it is whole: MLflow's migrations are no transaction."""
    if _is_current():
        return  # another process was faster
    _home_of_artifacts()
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine_with_retry  # noqa: PLC0415  (9 s; one process pays it)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415

    if _database().exists():
        _upgrade_db(create_sqlalchemy_engine_with_retry(f"sqlite:///{_database()}"))
    else:
        fresh = _database().with_name(".mlflow.db.part")
        fresh.unlink(missing_ok=True)
        SqlAlchemyStore(f"sqlite:///{fresh}", str(_artifacts())).engine.dispose()
        fresh.replace(_database())
    write_text(_stamp(), version("mlflow") + "\n")


def _is_current() -> bool:
    return _database().exists() and _stamp().exists() and _stamp().read_text().strip() == version("mlflow")


def _stamp() -> Path:
    """Which MLflow made or migrated the database last."""
    return _database().with_name("version")


def publish_runs() -> int:
    """Deliver the outbox; how many entries went. Without any, mlflow is not imported. A failure is said on stderr and leaves the rest for next time."""
    before = pending()
    if not before:
        return 0
    try:
        with _alone():
            n_delivered = _deliver_all(before)
    except Exception as error:  # noqa: BLE001  (MLflow is a log: whatever is wrong with it must not stop a stage)
        _note_failure(before, error)
        return sum(not folder.exists() for folder in before)
    _tried().unlink(missing_ok=True)
    return n_delivered


def _note_failure(tried: Sequence[Path], error: Exception) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    write_text(_tried(), f"{tried[-1].name}\n{reason}\n")
    print(f"MLflow at {settings().tracking_uri}: {reason}. {len(pending())} entries wait in {outbox()}.", file=sys.stderr)


def _deliver_all(folders: Sequence[Path]) -> int:
    """Deliver each, oldest first; how many went. Raises what keeps entries waiting.

    What MLflow refuses for good is set aside. A failure while MLflow does not answer ends the delivery, so that the order stays. A failure
    of one entry while MLflow answers lets the others pass, but for later champions of the same dataset: the newest must stay champion.
    """
    if not settings().mlflow_uri:
        _prepare()
    client, held, n_delivered = _client(), set[str](), 0
    failure: Exception | None = None
    client.search_experiments(max_results=1)  # whether it answers at all
    for folder in folders:
        if not folder.exists() or (dataset := _champion_of(folder)) in held:
            continue  # another process was faster, or an earlier champion waits
        try:
            _deliver(client, folder)
            shutil.rmtree(folder)
            n_delivered += 1
        except _WaitsError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  (of any of mlflow's parts)
            if not _is_permanent(error):
                client.search_experiments(max_results=1)  # raises when it is not the entry
                if _count_try(folder) < _MAX_TRIES:
                    failure, held = error, held | ({dataset} if dataset is not None else set())
                    continue
            _set_aside(folder, error)
    if failure is not None:
        raise failure
    return n_delivered


class _WaitsError(Exception):
    """The entry needs another one to be delivered first."""


def _is_permanent(error: Exception) -> bool:
    """Whether MLflow says that a value is wrong, so that trying again cannot help."""
    return getattr(error, "error_code", None) in {"INVALID_PARAMETER_VALUE", "MALFORMED_REQUEST"}


def _champion_of(folder: Path) -> str | None:
    """The dataset whose champion the entry *folder* names; None for any other entry."""
    try:
        entry = json.loads((folder / "entry.json").read_text())
        return str(entry["dataset"]) if entry["kind"] == "champion" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # its delivery fails, and says why


def _count_try(folder: Path) -> int:
    """Note one more try that failed; how many there are now."""
    path = folder / "tries.json"
    n_tries = int(json.loads(path.read_text())) + 1 if path.exists() else 1
    write_json(path, n_tries)
    return n_tries


def _set_aside(folder: Path, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"
    target = outbox().parent / "refused" / folder.name
    (folder / "tries.json").unlink(missing_ok=True)
    write_json(folder / _REASON, {"reason": reason})
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    print(f"MLflow refuses the entry {folder.name}: {reason}. It is in {target}; `tidemill doctor` says what to do.", file=sys.stderr)


@contextmanager
def publishing() -> Iterator[None]:
    """Deliver the outbox beside the block's own work, in a process that ends with this one; what the block adds goes at its end."""
    child = subprocess.Popen([sys.executable, "-m", "tasks.edges.tracking"], cwd=ROOT, stdin=subprocess.PIPE)
    try:
        yield
    finally:
        try:
            child.communicate(timeout=_WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            print(f"MLflow at {settings().tracking_uri} took more than {_WAIT_S:g} s; {len(pending())} entries wait in {outbox()}.", file=sys.stderr)


def commit(root: Path = ROOT) -> str:
    """The commit that is checked out, `unknown` where there is no git."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _put(entry: Mapping[str, Any], name: str, artifacts: Sequence[Path], ended_ns: int | None = None) -> str:
    name = mlflow_name(name)[:150]  # of a folder, and in a filter of MLflow's
    key = f"{time.time_ns():020d}-{os.getpid()}-{name}" if ended_ns is None else f"{ended_ns:020d}-{name}"
    try:
        with replacing(outbox() / key) as folder:
            write_json(folder / "entry.json", entry)
            for path in artifacts:
                (folder / "artifacts").mkdir(exist_ok=True)
                copy = shutil.copytree if path.is_dir() else shutil.copy2
                copy(path, folder / "artifacts" / path.name)
    except OSError as error:
        print(f"The run {name!r} was not kept for MLflow: {error}.", file=sys.stderr)
    return key


def _deliver(client: Any, folder: Path) -> None:
    entry = json.loads((folder / "entry.json").read_text())
    if entry["kind"] == "champion":
        _deliver_champion(client, entry)
    else:
        _deliver_run(client, entry, folder)


def _deliver_run(client: Any, entry: Mapping[str, Any], folder: Path) -> None:
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415  (4 s; one process pays it)

    ended_ms = int(folder.name.split("-")[0]) // 1_000_000
    experiment_id = _experiment(client, entry["experiment"])
    nested = _nested_in(client, experiment_id, entry.get("parent"))
    run_id, is_open = _run_of(client, experiment_id, entry, folder.name, ended_ms)
    if not is_open:
        return
    names = mlflow_names({*entry["params"], *entry["tags"], *(name for name, _, _ in entry["metrics"])})
    params = [Param(names[k], v) for k, v in entry["params"].items()]
    tags = [RunTag(k, v) for k, v in ({names[k]: v for k, v in entry["tags"].items()} | nested | tags_of_long_names(names)).items()]
    for start in range(0, max(len(params), len(tags), 1), 90):
        client.log_batch(run_id, params=params[start : start + 90], tags=tags[start : start + 90])
    for start in range(0, len(entry["metrics"]), _BATCH):
        client.log_batch(run_id, metrics=[Metric(names[k], v, ended_ms, step) for k, v, step in entry["metrics"][start : start + _BATCH]])
    if (folder / "artifacts").is_dir():
        client.log_artifacts(run_id, str(folder / "artifacts"))
    client.set_terminated(run_id, end_time=ended_ms)


def _nested_in(client: Any, experiment_id: str, parent: str | None) -> dict[str, str]:
    """The tag by which MLflow nests a run in that of the entry *parent*, if it is there. Raises _WaitsError while that entry waits itself."""
    for run in client.search_runs([experiment_id], filter_string=f"tags.`{_KEY}` = '{parent}'") if parent else ():
        return {"mlflow.parentRunId": run.info.run_id}
    if parent and (outbox() / parent).exists():
        raise _WaitsError(f"the run {parent}, in which this one is nested, is not delivered yet")
    return {}


def _run_of(client: Any, experiment_id: str, entry: Mapping[str, Any], key: str, ended_ms: int) -> tuple[str, bool]:
    """The run of this entry, begun now or by a delivery that was killed; whether it is still open."""
    for run in client.search_runs([experiment_id], filter_string=f"tags.`{_KEY}` = '{key}'"):
        return run.info.run_id, run.info.status == "RUNNING"
    run = client.create_run(experiment_id, start_time=ended_ms, tags={_KEY: key}, run_name=entry["name"][:250])
    return run.info.run_id, True


def _experiment(client: Any, dataset: str) -> str:
    name = mlflow_name(dataset)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=None if settings().mlflow_uri else f"{_artifacts().as_uri()}/{name}", tags=_KIND))


def _deliver_champion(client: Any, entry: Mapping[str, Any]) -> None:
    name, digest = mlflow_name(entry["dataset"]), entry["digest"]
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}'")
    found = next((v for v in versions if v.tags.get("tidemill.digest") == digest), None)
    # A server does not take a path of this machine, and could not read it; the digest names the release all the same.
    source = f"tidemill:/releases/{digest}" if settings().mlflow_uri.startswith("http") else Path(entry["source"]).as_uri()
    tags = {mlflow_name(k): v for k, v in entry["tags"].items()}
    version = found or client.create_model_version(name, source=source, tags=tags, description=f"release {digest}")
    client.set_registered_model_alias(name, "champion", version.version)


def _client() -> Any:
    _home_of_artifacts()
    from mlflow.tracking import MlflowClient  # noqa: PLC0415  (4 s; one process pays it)

    return MlflowClient(tracking_uri=settings().tracking_uri, registry_uri=settings().tracking_uri)


def _tried() -> Path:
    """Of the last delivery that failed: its newest entry, and why it failed."""
    return _database().with_name("tried")


def _home_of_artifacts() -> None:
    set_for_mlflow(_artifacts())
    _artifacts().mkdir(parents=True, exist_ok=True)


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time migrates the database and delivers."""
    folder = settings().home / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _database() -> Path:
    return settings().home / "mlflow" / "mlflow.db"


def _artifacts() -> Path:
    return settings().home.absolute() / "mlflow" / "artifacts"


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(part, name, figure) of `overall`, and of each row of `by_series` with the series in the part."""
    parts = [("overall", metrics.get("overall", {})), *((f"series.{row['series_id']}", row) for row in metrics.get("by_series", ())[:MAX_POINTS])]
    for part, row in parts:
        yield from ((part, k, v) for k, v in row.items() if isinstance(v, int | float))


def _series(metrics: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Lists of rows `by_year` and `by_cutoff` become series: the year, or the cutoff's number, is the step."""
    out: dict[str, list[tuple[int, float]]] = {}
    for part in ("by_year", "by_cutoff"):
        for place, row in enumerate(metrics.get(part, ())):
            for k, v in row.items():
                if k not in {"year", "cutoff"} and isinstance(v, int | float):
                    out.setdefault(f"{part}.{k}", []).append((row.get("year", row.get("cutoff", place)), float(v)))
    return out


def _thinned(steps: Steps) -> Iterator[list[Any]]:
    for name, points in steps.items():
        known = [p for p in points if _finite(p[1])]
        every = max(1, -(-len(known) // MAX_POINTS))
        yield from ([name, float(value), int(step)] for step, value in known[::every])


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(float(value)) < float("inf")


def main() -> None:
    """Deliver; when another process started us, once more after it has closed our standard input."""
    publish_runs()
    if not sys.stdin.isatty():
        sys.stdin.read()
        publish_runs()


if __name__ == "__main__":
    die_with_parent()
    main()
