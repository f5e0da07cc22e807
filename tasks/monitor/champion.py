"""The champion's facts that the monitor needs before it forecasts anything."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tasks.core.reports.monitor import MonitorKey
from tasks.core.reports.promote import GateDecision
from tasks.core.reports.retrain import RetrainLimits
from tasks.edges.artifacts import read_json
from tasks.edges.current import find_report
from tasks.edges.files import compute_file_hash
from tasks.edges.registry import ChampionRecord, get_champion_folder
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
    """Read its record, its manifest and the last decision of the gate."""
    losses = champion.decision.mean_loss
    is_challenger = champion.decision.decision == "promote"
    return MonitoredChampion(
        digest=champion.digest,
        model=champion.model,
        version=champion.version,
        seen_until=champion.seen_until,
        promoted_as_of=champion.promoted_as_of,
        trained_as_of=_read_trained_as_of(champion, root),
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


def _read_trained_as_of(champion: ChampionRecord, root: Path) -> datetime:
    """Newest `known_at` of the data of the last training that the gate judged.

    A challenger that lost counts, too: it shows that the champion is not out of date.
    """
    trained_as_of = datetime.fromisoformat(
        read_json(get_champion_folder(champion) / "manifest.json")["as_of"]
    )
    last = find_report(GateDecision, champion.dataset, root)
    return trained_as_of if last is None else max(trained_as_of, last.challenger_as_of)
