"""Keep the parts of `tidemill up` running: Prefect, MLflow, the service and a worker.

All write into one log. A part that ends is started again, after a longer pause each time.
`state.json` in home names the processes, so that `tidemill down` stops exactly those.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from logging.handlers import RotatingFileHandler
from typing import Any, NamedTuple, NoReturn

from deployments.ops.crashed_runs import CrashWatch
from deployments.ops.forecaster_process import (
    build_serve_command,
    build_service_environment,
    find_champion_target,
)
from deployments.ops.prefect_server import (
    POOL,
    build_api_url,
    build_prefect_environment,
    build_server_command,
    build_ui_url,
    get_log_path,
)
from deployments.ops.supervisor_state import PartEnds, SupervisorState, get_state_path
from tasks.core.errors import ParamsError
from tasks.edges.artifacts import write_json
from tasks.edges.params import read_dataset, read_section
from tasks.edges.processes import (
    ProcessIdentity,
    build_process_identity,
    fetch_url,
    is_answering,
    start_process,
    stop_process,
)
from tasks.edges.registry import read_champion
from tasks.edges.settings import read_settings

LOG_BYTES = 5_000_000  # and one older file of that size
LONGEST_PAUSE_S = 60.0
_POLL_S = 0.5
_DEPLOY = "deploy"
KAFKA = "--kafka"  # the supervisor's one argument


class SupervisedPart(NamedTuple):
    """One program.

    command: called at each start, since by then another release may be served.
    ready: whether it does its work now.
    after: the part that must be ready before it starts.
    """

    name: str
    command: Callable[[], list[str]]
    environment: dict[str, str]
    address: str
    ready: Callable[[], bool]
    after: str | None = None


def list_ports(kafka: bool = False) -> dict[str, int]:
    """Ports that our parts listen on, by part; `TIDEMILL_<PART>_PORT` moves one.

    A part that a setting places elsewhere needs none here.
    """
    settings = read_settings()
    feed = {"feed": settings.feed_port} if has_feed() else {}
    broker = {"kafka": settings.kafka_port} if kafka and not settings.kafka else {}
    prefect = {} if settings.prefect_api_url else {"prefect": settings.prefect_port}
    mlflow = {} if settings.mlflow_uri.startswith("http") else {"mlflow": settings.mlflow_port}
    return {**broker, **feed, **prefect, **mlflow, "service": settings.service_port}


def has_feed() -> bool:
    """Whether the current dataset's entry has a section `feed`.

    A broken entry counts as none; the commands that need it report the fault.
    """
    try:
        return read_section("feed") is not None
    except ParamsError:
        return False


def list_parts(kafka: bool = False) -> list[SupervisedPart]:
    """Programs to run, in the order of their start; *kafka*: a broker too.

    A part that a setting places elsewhere is not started here.
    """
    ports = list_ports(kafka)
    build = {"kafka": _build_kafka, "feed": _build_feed, "prefect": _build_prefect, "mlflow": _build_mlflow}
    parts = [build_part(ports) for name, build_part in build.items() if name in ports]
    return [
        *parts,
        _build_refresh(),
        _build_service(ports),
        _build_worker(ports),
        _build_alerts(),
        _build_jobs(),
    ]


def _build_kafka(_: Mapping[str, int]) -> SupervisedPart:
    from deployments.ops.kafka_broker import is_up

    address = read_settings().kafka_address
    command = [sys.executable, "-m", "deployments.ops.kafka_broker"]
    return SupervisedPart("kafka", lambda: command, {}, address, lambda: is_up(address))


def _build_feed(ports: Mapping[str, int]) -> SupervisedPart:
    metrics = f"http://{read_settings().host}:{ports['feed']}/metrics"
    command = [sys.executable, "-m", "tasks.feed.run_loop"]
    # Not waited for: without its topic it ends and starts again until the topic exists;
    # `tidemill feed status` shows what is missing.
    after = "kafka" if "kafka" in ports else None
    return SupervisedPart("feed", lambda: command, {}, metrics, lambda: True, after)


def _build_prefect(ports: Mapping[str, int]) -> SupervisedPart:
    api = build_api_url(ports["prefect"])
    return SupervisedPart(
        "prefect",
        lambda: build_server_command(ports["prefect"]),
        build_prefect_environment(api),
        build_ui_url(api),
        lambda: is_answering(f"{api}/health"),
    )


def _build_mlflow(ports: Mapping[str, int]) -> SupervisedPart:
    address = f"http://{read_settings().host}:{ports['mlflow']}"
    # Its job runner takes another 260 MB, and Tidemill has no jobs for it
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    return SupervisedPart(
        "mlflow", _build_mlflow_command, environment, address, lambda: is_answering(f"{address}/health")
    )


def _build_refresh() -> SupervisedPart:
    command = [sys.executable, "-m", "tasks.refresh.run_loop"]
    return SupervisedPart("refresh", lambda: command, {}, "newest rows", lambda: True)


def _build_service(ports: Mapping[str, int]) -> SupervisedPart:
    address = f"http://{read_settings().host}:{ports['service']}"
    environment = build_service_environment(follows=True)
    return SupervisedPart(
        "service", _build_service_command, environment, address, lambda: _is_service_ready(address)
    )


def _build_worker(ports: Mapping[str, int]) -> SupervisedPart:
    settings = read_settings()
    api = settings.prefect_api_url or build_api_url(settings.prefect_port)
    command = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", POOL]
    return SupervisedPart(
        "worker",
        lambda: command,
        build_prefect_environment(api),
        f"pool {POOL!r}",
        lambda: _is_online(api),
        after="prefect" if "prefect" in ports else None,
    )


def _build_alerts() -> SupervisedPart:
    settings = read_settings()
    environment = build_prefect_environment(settings.prefect_api_url or build_api_url(settings.prefect_port))
    command = [sys.executable, "-m", "deployments.ops.alert_loop"]
    n = len(settings.alerts.get_secret_value().split())
    return SupervisedPart("alerts", lambda: command, environment, f"{n} addresses", lambda: True)


def _build_jobs() -> SupervisedPart:
    settings = read_settings()
    environment = build_prefect_environment(settings.prefect_api_url or build_api_url(settings.prefect_port))
    command = [sys.executable, "-m", "deployments.ops.job_loop"]
    return SupervisedPart(
        "jobs", lambda: command, environment, f"{settings.job_processes} at a time", lambda: True
    )


def build_deploy_command() -> list[str]:
    """The command that puts the deployments into Prefect; the work pool must exist."""
    return ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"]


def run_supervisor(kafka: bool = False) -> NoReturn:
    """Start the parts, keep them running until SIGTERM or SIGINT, then stop them.

    kafka: start a broker too.
    """
    signal.signal(signal.SIGTERM, _stop_on_signal)
    signal.signal(signal.SIGINT, _stop_on_signal)
    keeper = _PartKeeper(list_parts(kafka))
    stopping = threading.Event()
    if "prefect" in list_ports(kafka):  # on a server for several machines, a process may be elsewhere
        api = build_api_url(read_settings().prefect_port)
        watch = CrashWatch(api, lambda line: keeper.log.info("supervisor | %s", line))
        threading.Thread(target=watch.run_loop, args=(stopping,), daemon=True).start()
    try:
        while True:
            keeper.run_round()
            time.sleep(_POLL_S)
    finally:
        stopping.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal does not interrupt the stop
        keeper.close()


class _PartKeeper:
    """Starts, watches and stops the parts."""

    def __init__(self, wanted: list[SupervisedPart]) -> None:
        self.wanted = wanted
        self.log = _build_logger()
        self.identity = build_process_identity("supervisor", os.getpid())
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.identities: dict[str, ProcessIdentity] = {}
        self.commands: dict[str, list[str]] = {}
        self.n_starts: dict[str, int] = {}
        self.ends: dict[str, PartEnds] = {}
        self.feed_dataset: str | None = None
        self.not_before: dict[str, float] = {}
        self.deployed = False
        self.is_written = True
        self._write()

    def run_round(self) -> None:
        """Start the parts that are due, log those that ended, deploy once there is a work pool."""
        if not self.is_written:
            self._write()
        for part in self.wanted:
            child = self.running.get(part.name)
            if child is not None and child.poll() is not None:
                self._log_end(part, child)
            elif child is None and self._is_due(part):
                self._start_part(part)
        if (
            not self.deployed
            and "worker" in self.running
            and self._get_part("worker").ready()
            and self._is_allowed(_DEPLOY)
        ):
            self._run_deploy()

    def close(self) -> None:
        """Stop every part, all at the same time."""
        stoppers = [
            threading.Thread(target=stop_process, args=(identity,)) for identity in self.identities.values()
        ]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()
        get_state_path().unlink(missing_ok=True)
        self.log.info("supervisor | all stopped")

    def _is_due(self, part: SupervisedPart) -> bool:
        waits = part.after is not None and not self._get_part(part.after).ready()
        return not waits and self._is_allowed(part.name)

    def _is_allowed(self, name: str) -> bool:
        return time.monotonic() >= self.not_before.get(name, 0.0)

    def _start_part(self, part: SupervisedPart) -> None:
        try:
            self.commands[part.name] = command = part.command()
            self._write()  # before it starts: a promotion in between keeps the release that is named
            if part.name == "feed":
                self.feed_dataset = read_dataset()
            child, self.identities[part.name] = start_process(
                part.name, command, subprocess.PIPE, part.environment
            )
        except Exception as error:  # noqa: BLE001  (a file that is being edited; the other parts run on)
            self._log_delay(part, f"cannot be started: {error}")
            return
        self.running[part.name] = child
        threading.Thread(target=self._log_output, args=(part.name, child), daemon=True).start()
        self.n_starts[part.name] = self.n_starts.get(part.name, 0) + 1
        self.log.info("supervisor | %s started as process %d: %s", part.name, child.pid, " ".join(command))
        self._write()

    def _log_delay(self, part: SupervisedPart, fact: str) -> None:
        self.n_starts.setdefault(part.name, 1)
        pause = min(2.0 ** self.n_starts[part.name], LONGEST_PAUSE_S)
        self.log.info("supervisor | %s %s; again in %.0f s", part.name, fact, pause)
        self.not_before[part.name] = time.monotonic() + pause
        n = self.ends[part.name].n + 1 if part.name in self.ends else 1
        self.ends[part.name] = PartEnds(n=n, ended_at=time.time(), starts_at=time.time() + pause, fact=fact)
        self._write()

    def _log_end(self, part: SupervisedPart, child: "subprocess.Popen[str]") -> None:
        stop_process(self.identities.pop(part.name))  # and its child processes
        del self.running[part.name]
        self._log_delay(part, f"ended with code {child.returncode}")

    def _run_deploy(self) -> None:
        child, _ = start_process(
            _DEPLOY, build_deploy_command(), subprocess.PIPE, self._get_part("worker").environment
        )
        self._log_output(_DEPLOY, child)
        self.deployed = child.wait() == 0
        self.not_before[_DEPLOY] = time.monotonic() + LONGEST_PAUSE_S
        self._write()

    def _log_output(self, name: str, child: "subprocess.Popen[str]") -> None:
        assert child.stdout
        with child.stdout as lines:
            for line in lines:
                if line.strip():
                    self.log.info("%s | %s", name, line.rstrip())

    def _get_part(self, name: str) -> SupervisedPart:
        return next(part for part in self.wanted if part.name == name)

    def _write(self) -> None:
        addresses = {part.name: part.address for part in self.wanted}
        identities = tuple(self.identities.values())
        state = SupervisorState(
            supervisor=self.identity,
            parts=identities,
            commands=self.commands,
            addresses=addresses,
            ends=self.ends,
            feed_dataset=self.feed_dataset,
            deployed=self.deployed,
        )
        try:
            write_json(get_state_path(), state.model_dump())
            self.is_written = True
        except OSError as error:  # a full disk ends nothing that runs; the next round writes it
            self.log.info("supervisor | %s cannot be written: %s", get_state_path(), error)
            self.is_written = False


def _build_service_command() -> list[str]:
    return build_serve_command(find_champion_target(), read_settings().service_port)


def _is_service_ready(address: str) -> bool:
    """Without a champion the service waits for one, and answers 503 until then."""
    probe = "readyz" if read_champion(read_dataset()) else "livez"
    return is_answering(f"{address}/{probe}")


def _build_mlflow_command() -> list[str]:
    settings = read_settings()
    store = settings.mlflow_uri or f"sqlite:///{settings.home.absolute() / 'mlflow' / 'mlflow.db'}"
    return [
        "mlflow",
        "server",
        "--backend-store-uri",
        store,
        "--host",
        settings.host,
        "--port",
        str(settings.mlflow_port),
        "--workers",
        "1",
        *_build_artifact_options(),
    ]


def _build_artifact_options() -> list[str]:
    return ["--artifacts-destination", str(read_settings().home.absolute() / "mlflow" / "artifacts")]


def _is_online(api: str) -> bool:
    workers = fetch_url(f"{api}/work_pools/{POOL}/workers/filter", body=b"{}")
    return workers is not None and b'"ONLINE"' in workers


def _build_logger() -> logging.Logger:
    handler = RotatingFileHandler(get_log_path("up"), maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%F %T"))
    log = logging.getLogger("tidemill.up")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False
    return log


def _stop_on_signal(*_: Any) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    read_settings()
    run_supervisor(kafka=KAFKA in sys.argv)
