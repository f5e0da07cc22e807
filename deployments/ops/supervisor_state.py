"""What the supervisor of `tidemill up` writes about itself: which processes run, which ended."""

import time
from pathlib import Path

from pydantic import Field

from tasks.core.strict import Strict
from tasks.edges.processes import ProcessIdentity, is_running
from tasks.edges.settings import read_settings

RECENT_S = 600.0  # an end of a part in that time counts


class PartEnds(Strict):
    """How often a part has ended by itself.

    n: since `up`.
    ended_at, starts_at: of the last end and the start after it, in seconds since 1970.
    fact: of the last end.
    """

    n: int
    ended_at: float
    starts_at: float
    fact: str


class SupervisorState(Strict):
    """What runs.

    commands: what each part was started with; the registry keeps a release that is named here.
    ends: parts that have ended by themselves.
    feed_dataset: the dataset that the feed lands; it stays until the feed starts again.
    deployed: whether Prefect has the deployments of deployments/prefect.yaml.
    """

    supervisor: ProcessIdentity
    parts: tuple[ProcessIdentity, ...] = ()
    commands: dict[str, list[str]] = Field(default_factory=dict)
    addresses: dict[str, str] = Field(default_factory=dict)
    ends: dict[str, PartEnds] = Field(default_factory=dict)
    feed_dataset: str | None = None
    deployed: bool = False


def get_state_path() -> Path:
    """File in which the supervisor writes which processes run."""
    return read_settings().home / "up" / "state.json"


def read_state() -> SupervisorState | None:
    """The state that a supervisor left, running or not; None when there is none."""
    path = get_state_path()
    return SupervisorState.model_validate_json(path.read_bytes()) if path.exists() else None


def describe_failing_parts(state: SupervisorState) -> dict[str, str]:
    """Parts that do not run, or end again and again: the fact, by name."""
    running, failing = {part.name for part in state.parts if is_running(part)}, {}
    for name in state.addresses:
        ends = state.ends.get(name)
        is_looping = ends is not None and ends.n > 1 and time.time() - ends.ended_at < RECENT_S
        if name in running and not is_looping:
            continue
        failing[name] = "does not run" if name not in running else "runs"
        if ends is not None:
            since_s = time.time() - ends.ended_at
            failing[name] += f"; it {ends.fact}, {ends.n} times since `tidemill up`, last {since_s:.0f} s ago"
    return failing
