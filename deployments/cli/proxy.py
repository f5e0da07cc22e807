"""`tidemill proxy`: the replicas of the service behind HAProxy."""

import os
import sys
from typing import Annotated

import typer

from deployments.cli.output import AsJson, report_json

proxy_app = typer.Typer(
    help="Replicas of the service behind HAProxy: serve, status, drain, ready.", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(help="Of the replica: blue or green.", metavar="NAME")]


def add_proxy_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    app.add_typer(proxy_app, name="proxy")


@proxy_app.command()
def serve(port: Annotated[int, typer.Option(help="Where it listens.", min=1, max=65535)]) -> None:
    """Run one more service on the same home, in the foreground: a replica for the proxy.

    It follows the champion as that of `up` does. Ctrl-C or SIGTERM stops it.
    """
    from deployments.ops.forecaster_process import (
        build_serve_command,
        build_service_environment,
        find_champion_target,
    )
    from tasks.edges.settings import ROOT, build_child_environment

    # By this interpreter: its folder need not be in PATH
    command = [sys.executable, "-m", *build_serve_command(find_champion_target(), port)]
    os.chdir(ROOT)
    os.execve(command[0], command, build_child_environment(**build_service_environment(follows=True)))  # noqa: S606


@proxy_app.command()
def status(as_json: AsJson = False) -> None:
    """Show the replicas, and which of them take requests."""
    from deployments.ops.proxy import list_replicas

    replicas = list_replicas()
    if as_json:
        report_json([replica._asdict() for replica in replicas])
        return
    for r in replicas:
        print(f"{r.name:<8} {r.address:<22} {r.status:<8} {r.n_requests} requests now, {r.n_failed} failed")


@proxy_app.command()
def drain(name: Name, as_json: AsJson = False) -> None:
    """Send a replica no new requests, and wait until it has answered its last; then stop it."""
    from deployments.ops.proxy import drain_replica

    replica = drain_replica(name)
    if as_json:
        report_json(replica._asdict())
    else:
        print(f"{replica.name} at {replica.address} has no requests; it can be stopped")


@proxy_app.command()
def ready(name: Name, as_json: AsJson = False) -> None:
    """Let requests go to a replica, and wait until it takes them."""
    from deployments.ops.proxy import enable_replica

    replica = enable_replica(name)
    if as_json:
        report_json(replica._asdict())
    else:
        print(f"{replica.name} at {replica.address} takes requests")
