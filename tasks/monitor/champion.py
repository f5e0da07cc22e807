"""The champion's facts that the monitor needs before it forecasts anything."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tasks.core.reports.monitor import MonitorKey
from tasks.core.reports.promote import GateDecision
from tasks.core.reports.retrain import RetrainLimits
from tasks.edges.artifacts import read_json
from tasks.edges.champions import ChampionRecord
from tasks.edges.current import find_report
from tasks.edges.files import compute_file_hash
from tasks.edges.registry import get_champion_folder
from tasks.monitor.params import MonitorParams


class MonitoredChampion(NamedTuple):
    """The champion's facts in the report.

    promoted_as_of: newest `known_at` of the data that decided its promotion.
    trained_as_of: newest `known_at` of the data of the last training that the gate judged.
    gate_loss: its mean loss on the gate's rows.
    """

    digest: str
    model: str
    version: str
    seen_until: datetime
    promoted_as_of: datetime
    trained_as_of: datetime
    gate_loss: float | None


def read_monitored_champion(champion: ChampionRecord, root: Path) -> MonitoredChampion:
    """Read its manifest and the last decision of the gate."""
    manifest = read_json(get_champion_folder(champion) / "manifest.json")
    last = find_report(GateDecision, champion.dataset, root)
    return build_monitored_champion(champion, datetime.fromisoformat(manifest["as_of"]), last)


def build_monitored_champion(
    champion: ChampionRecord, built_as_of: datetime, last: GateDecision | None
) -> MonitoredChampion:
    """The facts of *champion*.

    built_as_of: newest `known_at` of the data that it was built from.
    last: decision of the gate. A challenger that lost counts as a training, too: it shows that the
      champion is not out of date.
    """
    losses = champion.decision.mean_loss
    is_challenger = champion.decision.decision == "promote"
    return MonitoredChampion(
        digest=champion.digest,
        model=champion.model,
        version=champion.version,
        seen_until=champion.seen_until,
        promoted_as_of=champion.promoted_as_of,
        trained_as_of=built_as_of if last is None else max(built_as_of, last.challenger_as_of),
        gate_loss=None if losses is None else losses.challenger if is_challenger else losses.opponent,
    )


def build_key(
    dataset: str,
    rows: Path,
    champion: MonitoredChampion | None,
    params: MonitorParams,
    limits: RetrainLimits,
) -> MonitorKey:
    """Everything that determines the report. rows: the file of the clean rows."""
    facts = None if champion is None else (champion.digest, champion.promoted_as_of, champion.trained_as_of)
    return MonitorKey(
        dataset=dataset,
        rows=compute_file_hash(rows),
        champion=facts,
        params=params.model_dump() | limits.model_dump(),
    )
