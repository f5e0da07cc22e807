"""The loop of `tidemill up` with a real webhook and a real SMTP server."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime

from alert_servers import LOOP, START, mail_address, smtp_server, webhook
from disks import small_disk
from reports import DRIFT, monitor_report
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.cli.exit_codes import ExitCode
from deployments.ops.alert_loop import PartsProbe, deliver_next
from deployments.ops.supervisor_state import PartEnds, SupervisorState, get_state_path
from tasks.alerts.params import AlertParams
from tasks.alerts.send import AlertAddress, remove_secrets
from tasks.alerts.sources import AlarmContext
from tasks.alerts.store import hash_address, open_store
from tasks.core.reports.monitor import MonitorReport
from tasks.edges.artifacts import write_json, write_report
from tasks.edges.params import read_document
from tasks.edges.processes import START_S, build_process_identity, find_free_port, wait_for
from tasks.edges.settings import ROOT, build_child_environment, read_settings

CANARY = "canary4711"
DRIFTING = "Tidemill, small: warning: inputs_drift"
WELL = "Tidemill, small: well again: inputs_drift"


@contextmanager
def running(root, *addresses, **environment):
    """The loop, killed at the end as `kill -9` does; gives its process."""
    env = build_child_environment(
        TIDEMILL_HOME=str(read_settings().home),
        TIDEMILL_ALERTS=" ".join(addresses),
        TIDEMILL_SERVICE_PORT=str(find_free_port("127.0.0.1")),
        PREFECT_API_URL="http://127.0.0.1:9/api",
        **environment,
    )
    with (root / "loop.log").open("a") as log:
        loop = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(root)], cwd=ROOT, env=env, stdout=log, stderr=log
        )
    try:
        yield loop
    finally:
        loop.send_signal(signal.SIGKILL)
        loop.wait()


def count_waiting(address):
    """Messages that the outbox has for *address*; one that was accepted may not be noted yet."""
    with open_store() as store:
        state = store.read_address_states().get(hash_address(address))
    return None if state is None else state.n_waiting


def write_monitor(root, *, drifts):
    write_report(root / MonitorReport.PATH, monitor_report(drift=DRIFT if drifts else None))


def titles(bodies):
    return [body["title"] for body in bodies]


def test_each_address_gets_an_alarm_once_over_outages_and_kills_and_its_end(root):
    """The webhook is down at first, the loop is killed while a message waits; SMTP goes on."""
    port, mail_port = find_free_port("127.0.0.1"), find_free_port("127.0.0.1")
    addresses = (f"json://127.0.0.1:{port}/{CANARY}", mail_address(mail_port))
    write_monitor(root, drifts=True)
    with smtp_server(mail_port) as mails:
        with running(root, *addresses):
            assert wait_for(lambda: mails and count_waiting(addresses[1]) == 0, 60)
            log = root / "loop.log"
            assert wait_for(lambda: "is tried again" in log.read_text(), 30)
        with webhook(port) as (_, bodies), running(root, *addresses):
            assert wait_for(lambda: bodies, 60)
            assert titles(bodies) == [DRIFTING]
            assert bodies[0]["type"] == "warning"
            write_monitor(root, drifts=False)
            assert wait_for(lambda: len(bodies) > 1 and len(mails) > 1, 30)
            time.sleep(1)
    assert titles(bodies) == [mail["subject"] for mail in mails] == [DRIFTING, WELL]
    assert "docs/runbooks/inputs-drift.md" in mails[0].get_body(("plain", "html")).get_content()
    kept = [path.read_bytes() for path in (log, *read_settings().home.rglob("*")) if path.is_file()]
    assert not any(CANARY.encode() in content for content in kept)


def test_a_full_disk_holds_back_no_critical_alarm(root, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk") as disk, webhook() as (port, bodies):
        home = disk.folder / "home"
        home.mkdir()
        monkeypatch.setenv("TIDEMILL_HOME", str(home))
        read_settings.cache_clear()
        disk.fill(os.getpid())
        with running(root, f"json://127.0.0.1:{port}/"):
            assert wait_for(lambda: bodies, 60)
            time.sleep(1)
        disk.free(os.getpid())
    if disk.is_mounted:
        assert titles(bodies) == ["Tidemill, machine: critical: disk_full"]


def test_a_wrong_address_ends_the_loop_with_its_number_and_without_its_text(root):
    with running(root, "json://127.0.0.1:9/", f"nowhere://user:{CANARY}@host") as loop:
        assert loop.wait(60) == 2
    said = (root / "loop.log").read_text()
    assert "Address 2 (nowhere) of TIDEMILL_ALERTS" in said
    assert CANARY not in said


def test_the_test_command_says_per_address_what_happened_and_nothing_secret(root):
    secret = (
        f"json://user:{CANARY}@127.0.0.1:9/path",
        f"json://127.0.0.1:9/{CANARY}?:token={CANARY}",
        f"mailto://user:{CANARY}%21@127.0.0.1:9?from=a@b.cd&to=e@f.gh&mode=insecure",
    )
    with webhook() as (port, bodies):
        addresses = " ".join([f"json://127.0.0.1:{port}/", *secret])
        env = {"TIDEMILL_HOME": str(read_settings().home), "TIDEMILL_ALERTS": addresses}
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", "alerts", "test"],
            cwd=ROOT,
            env=build_child_environment(TIDEMILL_LOG_LEVEL="debug", **env),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == ExitCode.PROBLEM
    first, *others = done.stdout.splitlines()
    assert first == "1 (json): accepted"
    assert [line.split(":")[0] for line in others] == ["2 (json)", "3 (json)", "4 (mailto)"]
    assert not any("accepted" in line for line in others)
    assert titles(bodies) == ["Tidemill: test of alerts"]
    assert CANARY not in done.stdout + done.stderr


def test_the_commands_without_addresses_and_alarms(root):
    missing = CliRunner().invoke(app, ["alerts", "test"])
    assert missing.exit_code == ExitCode.ERROR
    assert "TIDEMILL_ALERTS is not set" in missing.output
    listed = json.loads(CliRunner().invoke(app, ["alerts", "list", "--json"]).output)
    assert (listed["looked_at"], listed["alarms"]) == (None, [])


def test_no_part_of_an_address_is_left_in_a_text():
    url = "json://Us%C3%A9r:p%40ss@Host.example:80/Tok_en?x=y"
    text = remove_secrets("failed at Host.example and host.EXAMPLE for Usér p@ss tok_EN json", url)
    assert not any(part in text.lower() for part in ("host", "usér", "tok_en"))
    assert text.endswith("json")


def test_the_settings_show_no_address(monkeypatch):
    monkeypatch.setenv("TIDEMILL_ALERTS", f"json://{CANARY}/")
    read_settings.cache_clear()
    address = AlertAddress("1 (json)", CANARY, "hash")
    assert CANARY not in f"{read_settings()!r} {read_settings().model_dump_json()} {address!r}"
    read_settings.cache_clear()


def test_a_failing_part_is_down_after_three_ticks_and_one_that_starts_is_not(root):
    ends = PartEnds(n=1, ended_at=START.timestamp(), starts_at=START.timestamp(), fact="ended with code 1")
    ours = build_process_identity("supervisor", os.getpid())
    state = SupervisorState(supervisor=ours, addresses={"feed": "", "worker": ""}, ends={"feed": ends})
    write_json(get_state_path(), state.model_dump())
    document, probe = read_document(root), PartsProbe()

    def list_subjects(passed_s):
        now = datetime.fromtimestamp(ours.started + passed_s, UTC)
        alarms = probe.list_alarms(AlarmContext(document, AlertParams(), root, now))
        return alarms if alarms is None else [alarm.subject for alarm in alarms]

    assert [list_subjects(10.0 * i) for i in range(3)] == [None, None, ["feed"]]
    assert [list_subjects(START_S + 10.0 * i) for i in range(3)] == [None, None, ["feed", "worker"]]


def test_nothing_is_delivered_where_nothing_waits(root):
    assert deliver_next("a", lambda _: None) is None
    with open_store() as store:
        assert store.read_address_states() == {}
