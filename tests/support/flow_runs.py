"""Flow runs of a checkout's own Prefect server, as an operator starts and looks for them."""

import time

PATIENCE_S = 240.0  # two cores, and perhaps other tests
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def run_prefect(checkout, api, *arguments):
    """Prefect's own command line, as an operator types it."""
    url = str(api.base_url).rstrip("/")
    return checkout.run(
        "prefect", "--no-prompt", *arguments, PREFECT_API_URL=url, PREFECT_HOME=str(checkout.home / "prefect")
    )


def wait_for_run(api, flow, wanted, states=ENDED):
    """The newest run of *flow* that is *wanted*, once it is in one of *states*."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = api.post(
            "/flow_runs/filter",
            json={"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"},
        ).json()
        if ready := [run for run in found if wanted(run) and run["state_type"] in states]:
            return ready[0]
        time.sleep(0.5)
    raise AssertionError(
        f"no run of {flow} was in {states} within {PATIENCE_S:.0f} s; there are"
        f" {[(r['name'], r['state_type']) for r in found]}"
    )
