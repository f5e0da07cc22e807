"""`make chaos`: requests without end while releases are swapped and the service is killed.

CHAOS_REQUESTS=40000 asks fewer; the swaps and the kills stay.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from rollout_runs import build_rollout_releases
from servers import JSON, RUN_APP, Server, at, crown, digest_of
from slot_runs import swap_slots

from tasks.edges.settings import ROOT, build_child_environment

N_REQUESTS = int(os.environ.get("CHAOS_REQUESTS", "1000000"))
N_SWAPS, N_KILLS = 200, 20
N_TRIES = 100  # of one request that a kill cuts off, .1 s apart


class Service:
    """The app on a socket that outlives its process, as one that a supervisor has opened."""

    def __init__(self, home, listening):
        self.home, self.listening = home, listening
        self.process = self._start()

    def _start(self):
        fd = self.listening.fileno()
        env = build_child_environment(TIDEMILL_HOME=str(self.home))
        return subprocess.Popen([sys.executable, "-c", RUN_APP, str(fd)], cwd=ROOT, env=env, pass_fds=[fd])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        self.process = self._start()


@contextmanager
def serve(home):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        service = Service(home, listening)
        try:
            yield service, f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            service.process.terminate()
            service.process.wait(30)


class Asker(threading.Thread):
    """Asks until it is stopped. is_new: on a new connection each time."""

    def __init__(self, address, stop, *, is_new):
        super().__init__()
        self.address, self.stop, self.is_new = address, stop, is_new
        self.statuses, self.n_cut_off = {}, 0

    def run(self):
        client = httpx.Client(base_url=self.address, timeout=60, headers=JSON)
        while not self.stop.is_set():
            status = self.ask(client)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if self.is_new:
                client.close()
                client = httpx.Client(base_url=self.address, timeout=60, headers=JSON)
        client.close()

    def ask(self, client):
        for _ in range(N_TRIES):
            try:
                return client.post("/api/v1/predict", json={"series_id": "north"}).status_code
            except httpx.TransportError:  # a kill came before the reply: asked again
                self.n_cut_off += 1
                time.sleep(0.1)
        return None


@pytest.mark.chaos
@pytest.mark.timeout(14_400)
def test_no_request_fails_while_releases_are_swapped_and_the_service_is_killed(tmp_path):
    releases = build_rollout_releases(tmp_path / "built")
    (releases / "plain").rename(releases / "first")
    (releases / "good").rename(releases / "second")
    home = tmp_path / "home"
    crown(home, releases / "first")
    stop, begun = threading.Event(), time.monotonic()
    with at(home), serve(home) as (service, address):
        askers = [Asker(address, stop, is_new=k == 3) for k in range(4)]
        for asker in askers:
            asker.start()
        try:
            with httpx.Client(base_url=address, timeout=120, headers=JSON) as client:
                server = Server(client, service.process, home)
                for k in range(N_KILLS):
                    swap_slots(server, releases, N_SWAPS // N_KILLS)
                    while (
                        sum(n for a in askers for n in a.statuses.values()) < N_REQUESTS * (k + 1) / N_KILLS
                    ):
                        time.sleep(0.1)
                    service.kill()
                    server.client.close()
                    server.client = httpx.Client(base_url=address, timeout=120, headers=JSON)
                    digest = digest_of(releases / ("second", "first")[(N_SWAPS // N_KILLS - 1) % 2])
                    assert server.wait_for(lambda ready: ready["ready"])["digest"] == digest
                server.client.close()
        finally:
            stop.set()
            for asker in askers:
                asker.join()
    statuses = [asker.statuses for asker in askers]
    n_cut_off = sum(asker.n_cut_off for asker in askers)
    took = f"{time.monotonic() - begun:.0f} s"
    print(f"\n{N_SWAPS} swaps, {N_KILLS} kills, {took}: {statuses}, {n_cut_off} asked again")
    assert {status for found in statuses for status in found} == {200}
    assert sum(found[200] for found in statuses) >= N_REQUESTS
