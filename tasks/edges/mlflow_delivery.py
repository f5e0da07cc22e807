"""`python -m tasks.edges.mlflow_delivery`: delivers the outbox of `tasks.edges.tracking` to MLflow.

One process delivers at a time, with MLflow's own client. An address that does not answer, or a
kill, leaves the entry for the next delivery, and an entry delivered twice is one run. An entry that
MLflow refuses for its content is moved to `<home>/mlflow/refused/` with the reason, so that it
stops no other.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.edges.artifacts import write_json, write_text
from tasks.edges.files import hold_lock
from tasks.edges.mlflow_database import make_artifacts_folder, update_database
from tasks.edges.mlflow_live import list_killed_runs
from tasks.edges.parent_watch import stop_with_parent
from tasks.edges.safe_names import build_long_name_tags, encode_name, encode_names
from tasks.edges.settings import ROOT, read_settings
from tasks.edges.tracking import (
    ENTRY_TAG,
    EXPERIMENT_TAGS,
    REASON,
    get_artifacts_folder,
    get_failure_path,
    get_outbox_folder,
    list_pending_entries,
)

_BATCH = 900  # MLflow accepts 1,000 metrics, 100 params and 100 tags in one call
_WAIT_S = 120.0  # a first delivery makes the database: 13 s seen on a busy machine
_PARENT_TAG = "mlflow.parentRunId"
_MAX_TRIES = 3  # deliveries in which MLflow answers and an entry still fails, before it is refused


def publish_runs() -> int:
    """Deliver the outbox; how many entries were delivered.

    Without any, mlflow is not imported. A failure is reported on stderr and leaves the rest for the
    next delivery.
    """
    before = list_pending_entries()
    if not before:
        return 0
    try:
        with _wait_for_delivery_lock():
            n_delivered = _publish_entries(before)
    except Exception as error:  # noqa: BLE001  (MLflow is a log: no fault of it may stop a stage)
        _log_failure(before, error)
        return sum(not folder.exists() for folder in before)
    get_failure_path().unlink(missing_ok=True)
    return n_delivered


def _log_failure(tried: Sequence[Path], error: Exception) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    write_text(get_failure_path(), f"{tried[-1].name}\n{reason}\n")
    print(
        f"MLflow at {read_settings().tracking_uri}: {reason}. {len(list_pending_entries())} entries wait in"
        f" {get_outbox_folder()}.",
        file=sys.stderr,
    )


def _publish_entries(folders: Sequence[Path]) -> int:
    """Deliver each, oldest first; how many were delivered. Raises what keeps entries waiting.

    What MLflow refuses permanently is moved aside. A failure while MLflow does not answer ends the
    delivery, so that the order is kept. After a failure of one entry while MLflow answers the
    others
    are delivered, except later champions of the same dataset: the newest must stay champion.
    """
    if not read_settings().mlflow_uri:
        update_database()
    client, held, n_delivered = _build_client(), set[str](), 0
    failure: Exception | None = None
    client.search_experiments(max_results=1)  # whether it answers at all
    _end_killed_runs(client)
    for folder in folders:
        if not folder.exists() or (dataset := _find_champion_dataset(folder)) in held:
            continue  # another process was faster, or an earlier champion waits
        try:
            _publish_entry(client, folder)
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
            _write_refused_entry(folder, error)
    if failure is not None:
        raise failure
    return n_delivered


def _end_killed_runs(client: Any) -> None:
    """End the runs of trainings that were killed, unless their entry waits."""
    for marker in list_killed_runs():
        if not (get_outbox_folder() / marker.stem).exists():
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            for run in client.search_runs(experiments, filter_string=f"tags.`{ENTRY_TAG}` = '{marker.stem}'"):
                if run.info.status == "RUNNING":
                    client.set_terminated(run.info.run_id, "KILLED")
        marker.unlink(missing_ok=True)


class _WaitsError(Exception):
    """The entry needs another one to be delivered first."""


def _is_permanent(error: Exception) -> bool:
    """Whether MLflow reports a wrong value, so that another try cannot help."""
    return getattr(error, "error_code", None) in {"INVALID_PARAMETER_VALUE", "MALFORMED_REQUEST"}


def _find_champion_dataset(folder: Path) -> str | None:
    """The dataset whose champion the entry *folder* names; None for any other entry."""
    try:
        entry = json.loads((folder / "entry.json").read_text())
        return str(entry["dataset"]) if entry["kind"] == "champion" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # its delivery fails with the reason


def _count_try(folder: Path) -> int:
    """Count one more failed try of an entry; how many there are now."""
    path = folder / "tries.json"
    n_tries = int(json.loads(path.read_text())) + 1 if path.exists() else 1
    write_json(path, n_tries)
    return n_tries


def _write_refused_entry(folder: Path, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"
    target = get_outbox_folder().parent / "refused" / folder.name
    (folder / "tries.json").unlink(missing_ok=True)
    write_json(folder / REASON, {"reason": reason})
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    print(
        f"MLflow refuses the entry {folder.name}: {reason}. It is in {target}; `tidemill doctor` shows what"
        " to do.",
        file=sys.stderr,
    )


@contextmanager
def publish_alongside() -> Iterator[None]:
    """Deliver the outbox during the block, in a process of its own that ends with this one.

    What the block adds is delivered at its end.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "tasks.edges.mlflow_delivery"], cwd=ROOT, stdin=subprocess.PIPE
    )
    try:
        yield
    finally:
        try:
            child.communicate(timeout=_WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            print(
                f"MLflow at {read_settings().tracking_uri} took more than {_WAIT_S:g} s;"
                f" {len(list_pending_entries())} entries wait in {get_outbox_folder()}.",
                file=sys.stderr,
            )


def _publish_entry(client: Any, folder: Path) -> None:
    entry = json.loads((folder / "entry.json").read_text())
    if entry["kind"] == "champion":
        _publish_champion(client, entry, folder.name)
    elif entry["kind"] == "challenger":
        _publish_challenger(client, entry, folder.name)
    else:
        _publish_run(client, entry, folder)


def _publish_run(client: Any, entry: Mapping[str, Any], folder: Path) -> None:
    from mlflow.entities import Metric, Param, RunTag

    ended_ms, started_ms = _get_times_ms(entry, folder.name)
    experiment_id = _get_experiment(client, entry["experiment"])
    nested = _find_parent_tag(client, experiment_id, entry)
    run_id, is_open = _find_or_start_run(client, experiment_id, entry["name"], folder.name, started_ms)
    if not is_open:
        return
    names = encode_names({*entry["params"], *entry["tags"], *(name for name, *_ in entry["metrics"])})
    params = [Param(names[k], v) for k, v in entry["params"].items()]
    tags = [
        RunTag(k, v)
        for k, v in (
            {names[k]: v for k, v in entry["tags"].items()} | nested | build_long_name_tags(names)
        ).items()
    ]
    for start in range(0, max(len(params), len(tags), 1), 90):
        client.log_batch(run_id, params=params[start : start + 90], tags=tags[start : start + 90])
    for start in range(0, len(entry["metrics"]), _BATCH):
        client.log_batch(
            run_id,
            metrics=[
                Metric(names[k], v, *(at_ms or [ended_ms]), step)
                for k, v, step, *at_ms in entry["metrics"][start : start + _BATCH]
            ],
        )
    if (folder / "artifacts").is_dir():
        client.log_artifacts(run_id, str(folder / "artifacts"))
    client.set_terminated(run_id, end_time=ended_ms)
    if nested and entry.get("training"):
        client.set_terminated(nested[_PARENT_TAG], end_time=ended_ms)


def _get_times_ms(entry: Mapping[str, Any], key: str) -> tuple[int, int]:
    """When a run ended and when it started; an entry of an older version has its end in its key."""
    ended_ns = entry.get("ended_ns") or int(key.split("-", maxsplit=1)[0])
    return ended_ns // 1_000_000, (entry.get("started_ns") or ended_ns) // 1_000_000


def _find_parent_tag(client: Any, experiment_id: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """The tag by which MLflow nests a run, if it is to be: in that of an entry, or of the training.

    The run of a training on some data is made with its first model. Raises _WaitsError while the
    entry waits itself.
    """
    parent = entry.get("parent")
    if not parent and (training := entry.get("training")):
        waiting = [json.loads((folder / "entry.json").read_text()) for folder in list_pending_entries()]
        starts = [
            _get_times_ms(other, "")[1]
            for other in (*waiting, entry)
            if (other.get("training"), other.get("experiment")) == (training, entry["experiment"])
        ]
        run_id, is_open = _find_or_start_run(
            client, experiment_id, f"training {training[:12]}", f"training-{training}", min(starts)
        )
        if is_open:
            for name in ("tidemill.data", "tidemill.commit", "tidemill.dataset"):
                client.set_tag(run_id, name, entry["tags"].get(name, ""))
        return {_PARENT_TAG: run_id}
    for run in (
        client.search_runs([experiment_id], filter_string=f"tags.`{ENTRY_TAG}` = '{parent}'")
        if parent
        else ()
    ):
        return {_PARENT_TAG: run.info.run_id}
    if parent and (get_outbox_folder() / parent).exists():
        raise _WaitsError(f"the run {parent}, in which this one is nested, is not delivered yet")
    return {}


def _find_or_start_run(
    client: Any, experiment_id: str, name: str, key: str, started_ms: int
) -> tuple[str, bool]:
    """(the run with *key*, whether it is open), made now, by a killed delivery or while live."""
    for run in client.search_runs([experiment_id], filter_string=f"tags.`{ENTRY_TAG}` = '{key}'"):
        return run.info.run_id, run.info.status == "RUNNING"
    run = client.create_run(experiment_id, start_time=started_ms, tags={ENTRY_TAG: key}, run_name=name[:250])
    return run.info.run_id, True


def _get_experiment(client: Any, dataset: str) -> str:
    name = encode_name(dataset)
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    return str(
        client.create_experiment(
            name,
            artifact_location=(
                None if read_settings().mlflow_uri else f"{get_artifacts_folder().as_uri()}/{name}"
            ),
            tags=EXPERIMENT_TAGS,
        )
    )


def _publish_champion(client: Any, entry: Mapping[str, Any], key: str) -> None:
    """Register the release once, and move the aliases `champion` and `previous`."""
    from mlflow.exceptions import MlflowException

    name, version = _register_release(client, entry, key)
    client.set_model_version_tag(name, version, "tidemill.version", entry["tags"]["tidemill.version"])
    try:
        former = client.get_model_version_by_alias(name, "champion").version
    except MlflowException:  # the first one, or its version was deleted by hand
        former = version
    if former != version:
        client.set_registered_model_alias(name, "previous", former)
    client.set_registered_model_alias(name, "champion", version)


def _publish_challenger(client: Any, entry: Mapping[str, Any], key: str) -> None:
    """Register the release once; it has the alias `challenger` while its rollout is active."""
    name, version = _register_release(client, entry, key)
    if entry["is_active"]:
        client.set_registered_model_alias(name, "challenger", version)
    elif client.get_registered_model(name).aliases.get("challenger") == version:
        client.delete_registered_model_alias(name, "challenger")


def _register_release(client: Any, entry: Mapping[str, Any], key: str) -> tuple[str, str]:
    """(registered model, version) of a release, which is registered once."""
    name, digest = encode_name(entry["dataset"]), entry["digest"]
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("tidemill.digest") == digest:
            return name, version.version
    tags = {encode_name(k): v for k, v in entry["tags"].items()}
    source, run_id = _log_release(client, entry, key)
    made = client.create_model_version(
        name, source, run_id, tags=tags, description=f"release {digest}", await_creation_for=0
    )
    return name, made.version


def _log_release(client: Any, entry: Mapping[str, Any], key: str) -> tuple[str, str | None]:
    """(source, run) of a model version: the release as a model in a run of its own.

    Of a release whose files are gone only the digest is registered.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # With numpy, which a stage may not need
    from tasks.core.reports.package import CARD_NAME
    from tasks.edges.mlflow_model import write_mlflow_model
    from tasks.edges.release_files import MANIFEST, read_release_identity

    folder, dataset = Path(entry["source"]), entry["dataset"]
    if not (folder / MANIFEST).exists():
        return f"tidemill:/releases/{entry['digest']}", None
    ended_ms, _ = _get_times_ms(entry, key)
    title = f"release {entry['tags'].get('tidemill.version') or entry['digest'][:12]}"
    run_id, _ = _find_or_start_run(client, _get_experiment(client, dataset), title, key, ended_ms)
    data_version = read_release_identity(folder).data_version
    data = Dataset(dataset, data_version[:36], "tidemill", json.dumps({"data_version": data_version}))
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    for name, value in entry["tags"].items():
        client.set_tag(run_id, encode_name(name), value)
    with tempfile.TemporaryDirectory(dir=get_outbox_folder().parent) as work:
        write_mlflow_model(folder, Path(work) / "model", run_id)
        client.log_artifacts(run_id, str(Path(work) / "model"), "model")
    if (folder / CARD_NAME).exists():
        client.log_artifact(run_id, str(folder / CARD_NAME))
    client.set_terminated(run_id, end_time=ended_ms)
    return f"{client.get_run(run_id).info.artifact_uri}/model", run_id


def _build_client() -> Any:
    make_artifacts_folder()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=read_settings().tracking_uri, registry_uri=read_settings().tracking_uri)


@contextmanager
def _wait_for_delivery_lock() -> Iterator[None]:
    """One process at a time migrates the database and delivers."""
    with hold_lock(read_settings().home / "mlflow" / "lock"):
        yield


def main() -> None:
    """Deliver; when another process started this one, again after it has closed standard input."""
    publish_runs()
    if not sys.stdin.isatty():
        sys.stdin.read()
        publish_runs()


if __name__ == "__main__":
    stop_with_parent()
    main()
