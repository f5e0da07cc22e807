"""A real Apache Kafka without Docker: jars from Maven Central, one node or three.

Each node is a process that ends with the process that started it. What the nodes store is in
`<home>/kafka/`; started again in the same folder, a cluster continues where it was, with its id,
its ports and its topics.
"""

import base64
import json
import os
import shutil
import string
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from tasks.core.errors import SettingsError
from tasks.edges.files import hold_lock
from tasks.edges.processes import (
    ProcessIdentity,
    find_free_port,
    is_free,
    start_process,
    stop_process,
    wait_healthy,
)
from tasks.edges.settings import ROOT, read_settings

_INFRA = ROOT / "infra" / "kafka"
_HEAP = ("-Xms128m", "-Xmx512m")  # a laptop's broker; 330 MB resident
_STOP_S = 20.0  # a broker that gets SIGTERM writes its buffers


class BrokerNode(NamedTuple):
    """One broker: its number from 1, its two ports and the folder of its log."""

    number: int
    port: int
    controller_port: int
    folder: Path


class BrokerCluster:
    """Brokers that form one cluster.

    *folder* keeps their logs; *n_nodes* is 1 or 3. Nothing runs until `start` is called.
    """

    def __init__(self, folder: Path, n_nodes: int = 1, port: int | None = None) -> None:
        self.folder, self.jars = folder, _find_jars()
        self.nodes = [
            BrokerNode(n, client_port, controller, folder / f"node-{n}")
            for n, (client_port, controller) in enumerate(self._select_ports(n_nodes, port), 1)
        ]
        self._running: dict[int, tuple[subprocess.Popen[str], ProcessIdentity]] = {}
        self._write_log_format()

    @property
    def address(self) -> str:
        """The address for clients: every broker."""
        return ",".join(f"{read_settings().host}:{node.port}" for node in self.nodes)

    def command(self, number: int) -> list[str]:
        """The command that runs one node in the foreground."""
        return self._build_java_command("kafka.Kafka", str(self._get_properties_path(number)))

    def start(self, *numbers: int) -> None:
        """Start these nodes (none: all) and wait until each answers.

        Raises SettingsError with the last lines of its log.
        """
        nodes = [self._get_node(n) for n in numbers or range(1, len(self.nodes) + 1)]
        for node in nodes:
            with self._get_log_path(node.number).open("a") as log:
                self._running[node.number] = start_process(
                    f"kafka-{node.number}", self.command(node.number), log, {}
                )
        for node in nodes:
            wait_healthy(
                self._running[node.number][0],
                f"Kafka node {node.number}",
                partial(is_up, f"{read_settings().host}:{node.port}"),
                self._get_log_path(node.number),
            )

    def stop(self) -> None:
        """Stop every node, by SIGTERM first, so that it writes its buffers."""
        while self._running:
            child, identity = self._running.popitem()[1]
            stop_process(identity, _STOP_S)
            child.wait()

    def kill(self, number: int = 1) -> None:
        """Kill -9 a node."""
        child, _ = self._running.pop(number)
        child.kill()
        child.wait()

    def _select_ports(self, n_nodes: int, port: int | None) -> list[list[int]]:
        """[port, controller's port] of each node.

        They are the same as before where they are free, so that clients find the node again.
        port: the first node's.
        """
        path, host = self.folder / "ports.json", read_settings().host
        last = json.loads(path.read_text()) if path.exists() else [[0, 0]] * n_nodes
        ports = [[p if p and is_free(host, p) else find_free_port(host) for p in node] for node in last]
        ports[0][0] = port or ports[0][0]
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(ports))
        return ports

    def _get_node(self, number: int) -> BrokerNode:
        return self.nodes[number - 1]

    def _get_log_path(self, number: int) -> Path:
        return self.folder / f"node-{number}.log"

    def _build_java_command(self, *arguments: str) -> list[str]:
        return [
            "java",
            *_HEAP,
            f"-Dlog4j2.configurationFile={_INFRA / 'log4j2.properties'}",
            "-cp",
            f"{self.jars}/*",
            *arguments,
        ]

    def _get_properties_path(self, number: int) -> Path:
        return self.folder / f"node-{number}.properties"

    def _write_log_format(self) -> None:
        """Write each node's settings, and the cluster's id where the folder has none."""
        host, copies = read_settings().host, len(self.nodes)
        voters = ",".join(f"{node.number}@{host}:{node.controller_port}" for node in self.nodes)
        template = string.Template((_INFRA / "server.properties").read_text())
        cluster_id = self.folder / "cluster.id"
        if not cluster_id.exists():
            cluster_id.write_text(make_cluster_id())
        for node in self.nodes:
            values = {
                "node_id": node.number,
                "voters": voters,
                "host": host,
                "port": node.port,
                "controller_port": node.controller_port,
                "log_dir": node.folder,
                "copies": copies,
                "in_step": max(copies - 1, 1),
            }
            self._get_properties_path(node.number).write_text(template.safe_substitute(values))
            if not (node.folder / "meta.properties").exists():
                process = subprocess.run(
                    self._build_java_command(
                        "kafka.tools.StorageTool",
                        "format",
                        "-t",
                        cluster_id.read_text(),
                        "-c",
                        str(self._get_properties_path(node.number)),
                    ),
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if process.returncode:
                    raise SettingsError(
                        f"Kafka cannot use {node.folder}: {process.stdout}{process.stderr}. Remove the folder"
                        " to begin with an empty cluster."
                    )


def make_cluster_id() -> str:
    """16 random bytes as Kafka writes them.

    Without a leading `-`, which Kafka's tool would take for an option.
    """
    cluster_id = base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
    return make_cluster_id() if cluster_id.startswith("-") else cluster_id


def is_up(address: str) -> bool:
    """Whether a broker answers at *address*."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        admin = AdminClient({"bootstrap.servers": address, "log_level": 0, "socket.timeout.ms": 2000})
        return bool(admin.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


@contextmanager
def run_broker(folder: Path, n_nodes: int = 1) -> Iterator[BrokerCluster]:
    """A running cluster that ends with the block."""
    cluster = BrokerCluster(folder, n_nodes)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _find_jars() -> Path:
    """Folder of the jars; Maven fetches them the first time.

    Raises SettingsError that names the missing program.
    """
    folder = read_settings().home / "kafka" / "jars"
    pom = _INFRA / "pom.xml"
    seal = folder / "pom.xml"  # written last: all jars of this pom are there
    if seal.exists() and seal.read_bytes() == pom.read_bytes():
        return folder.absolute()
    for program, package in (("java", "openjdk-17-jre-headless"), ("mvn", "maven")):
        if shutil.which(program) is None:
            raise SettingsError(
                f"`{program}` is not installed; Kafka needs Java 17 and Maven to fetch it. Install {package}"
                " (Debian's name), or set TIDEMILL_KAFKA to a broker."
            )
    with hold_lock(folder.parent / "jars.lock"):  # two processes would delete each other's jars
        if not (seal.exists() and seal.read_bytes() == pom.read_bytes()):
            _fetch_jars(folder, pom)
            seal.write_bytes(pom.read_bytes())
    return folder.absolute()


def _fetch_jars(folder: Path, pom: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        "mvn",
        "-q",
        "-B",
        "-f",
        str(pom),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={folder.absolute()}",
    ]
    fetched = subprocess.run(command, capture_output=True, text=True, check=False)
    if fetched.returncode:
        raise SettingsError(
            f"Maven could not fetch Kafka's jars: {fetched.stdout[-2000:]}{fetched.stderr[-500:]}. Check"
            " that Maven Central can be reached."
        )


def main() -> None:
    """Run one node on the setting's port until stopped."""
    cluster = BrokerCluster(
        read_settings().home.absolute() / "kafka" / "cluster", port=read_settings().kafka_port
    )
    print(f"Kafka: {cluster.address}; Ctrl-C stops it", flush=True)
    command = cluster.command(1)
    os.execvp(command[0], command)  # noqa: S606  (the broker replaces this process, so that signals reach it)


if __name__ == "__main__":
    main()
