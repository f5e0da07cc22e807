"""Rollouts in a running service: begun, moved and ended, and followed from outside."""

import time

from reports import AS_OF, gate_decision
from servers import DATASET, crown, digest_of

from tasks.core.rollout import RolloutParams
from tasks.edges.rollouts import apply_rollout_command, get_rollout_path, start_rollout, write_move


def wait_until(holds, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def read_slot(server):
    return server.client.get("/api/v1/models").json()["rollout"]


def start(server, folder, *steps, **params):
    """A rollout of *folder* that the service has loaded."""
    params = RolloutParams(steps_frac=steps, **params)
    rollout = start_rollout(DATASET, folder, gate_decision(as_of=AS_OF), params)
    wait_until(lambda: (read_slot(server) or {}).get("is_loaded"))
    return rollout


def swap_slots(server, releases, n_swaps):
    """Each time a rollout, a larger weight or its end, and another champion."""
    for k in range(n_swaps):
        name = ("second", "first")[k % 2]
        get_rollout_path(DATASET).unlink(missing_ok=True)
        rollout = start(server, releases / name, 0.3, 0.6, 1)
        if k % 3 == 2:
            apply_rollout_command(DATASET, "abort", "test", "")
        else:
            write_move(rollout, "test", "", step=1)
        crown(server.home, releases / name)
        server.wait_for(lambda ready, name=name: ready["digest"] == digest_of(releases / name))
