"""The loop at a glance: how fresh the rows are, how good the forecasts, what comes next."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from deployments.ops.prefect_server import POOL, build_api_url
from tasks.core.reports.base import IsoTime
from tasks.core.reports.ingest import IngestLedger
from tasks.core.reports.monitor import MonitorReport, ServiceLevel
from tasks.core.strict import Strict
from tasks.edges.current import find_report
from tasks.edges.params import ParamsDocument
from tasks.edges.processes import fetch_url
from tasks.edges.refreshed import read_refresh
from tasks.edges.settings import read_settings
from tasks.retrain.journal import Retraining, read_retrainings
from tasks.retrain.params import RetrainParams

RetrainResult = Literal["running", "interrupted", "failed", "in vain", "promoted"]


class Freshness(Strict):
    """The rows from which the next forecast is made.

    as_of: newest `known_at`.
    age_s: since then.
    """

    as_of: IsoTime
    age_s: float


class LevelStatus(Strict):
    """One service level.

    name: `loss`, or `80% coverage`.
    newest: the rolling figure now; null before the first block of outcomes.
    normal: what it is compared with.
    state: `good`, `alarm`, or `unwatched`.
    """

    name: str
    newest: float | None
    normal: float | None
    state: Literal["good", "alarm", "unwatched"]


class AlarmStatus(Strict):
    """An alarm that is open.

    name: of the level, or `drift`.
    opened_at: of its data; null for drift.
    """

    name: str
    opened_at: IsoTime | None
    description: str


class LastRetraining(Strict):
    """The last retraining, and what became of it.

    gain_frac: share by which the new champion's loss is lower than the former one's on what came
      after; null until that is known.
    """

    started_at: IsoTime
    triggers: tuple[str, ...]
    reason: str
    recipe: str
    result: RetrainResult
    error: str | None
    gain_frac: float | None


class NextDue(Strict):
    """What comes next.

    age_left_steps: steps of data until the champion's age is a reason; null without a champion.
    runs: next start of each flow by schedule; empty while nothing is up.
    """

    age_left_steps: int | None
    runs: dict[str, IsoTime]


class LoopStatus(Strict):
    """See the module."""

    freshness: Freshness | None
    champion_age_steps: int | None
    levels: tuple[LevelStatus, ...]
    alarms: tuple[AlarmStatus, ...]
    last_retraining: LastRetraining | None
    next_due: NextDue


def read_loop_status(document: ParamsDocument, root: Path, *, is_up: bool) -> LoopStatus:
    """Of the current dataset. is_up: whether Prefect may be asked for what comes next."""
    dataset = document.dataset
    monitor = find_report(MonitorReport, dataset, root)
    age_steps = monitor.champion.age_steps if monitor and monitor.champion else None
    max_age_steps = document.parse_stage("retrain", RetrainParams).max_age_steps
    retrainings = read_retrainings(dataset)
    return LoopStatus(
        freshness=_read_freshness(dataset, root),
        champion_age_steps=age_steps,
        levels=tuple(_build_level(level) for level in monitor.service_levels) if monitor else (),
        alarms=_list_alarms(monitor) if monitor else (),
        last_retraining=_build_last_retraining(retrainings[-1]) if retrainings else None,
        next_due=NextDue(
            age_left_steps=None if age_steps is None else max(0, max_age_steps + 1 - age_steps),
            runs=_fetch_next_runs() if is_up else {},
        ),
    )


def _read_freshness(dataset: str, root: Path) -> Freshness | None:
    refresh, ledger = read_refresh(dataset), find_report(IngestLedger, dataset, root)
    times = [each.as_of for each in (refresh, ledger) if each is not None]
    if not times:
        return None
    return Freshness(as_of=max(times), age_s=round((datetime.now(UTC) - max(times)).total_seconds(), 1))


def _build_level(level: ServiceLevel) -> LevelStatus:
    return LevelStatus(
        name=level.name,
        newest=level.points[-1].value if level.points else None,
        normal=level.normal,
        state="alarm" if level.direction else "unwatched" if level.unwatched else "good",
    )


def _list_alarms(monitor: MonitorReport) -> tuple[AlarmStatus, ...]:
    alarms = [
        AlarmStatus(
            name=level.name, opened_at=level.alarm_at, description=f"{level.direction} since {level.since}"
        )
        for level in monitor.service_levels
        if level.direction
    ]
    if (drift := monitor.drift) is not None and drift.is_drifting:
        text = f"{drift.n_alarmed} of {drift.n_streams} inputs alarm, {drift.n_by_luck} would by chance"
        alarms.append(AlarmStatus(name="drift", opened_at=None, description=text))
    return tuple(alarms)


def _build_last_retraining(last: Retraining) -> LastRetraining:
    return LastRetraining(
        started_at=last.started_at,
        triggers=last.triggers,
        reason=last.reason,
        recipe=last.recipe,
        result=_find_result(last),
        error=last.error,
        gain_frac=None if last.outcome is None else last.outcome.gain_frac,
    )


def _find_result(last: Retraining) -> RetrainResult:
    if last.ended_at is None:
        return "running" if last.is_running else "interrupted"
    if last.new_digest is None:
        return "failed"
    return "in vain" if last.new_digest == last.digest else "promoted"


def _fetch_next_runs() -> dict[str, datetime]:
    """Next start of each deployment's schedule; the server may not answer yet."""
    settings = read_settings()
    api = settings.prefect_api_url or build_api_url(settings.prefect_port)
    scheduled = {
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "work_pools": {"name": {"any_": [POOL]}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    runs = _fetch(f"{api}/flow_runs/filter", scheduled)
    names = {each["id"]: each["name"] for each in _fetch(f"{api}/deployments/filter", {})}
    times: dict[str, datetime] = {}
    for run in runs:
        if (name := names.get(run["deployment_id"])) is not None:
            times.setdefault(name, datetime.fromisoformat(run["expected_start_time"]))
    return times


def _fetch(url: str, body: dict[str, object]) -> list[dict[str, Any]]:
    content = fetch_url(url, body=json.dumps(body).encode())
    found: list[dict[str, Any]] = json.loads(content) if content else []
    return found
