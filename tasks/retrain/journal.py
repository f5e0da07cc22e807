"""The retrainings of a dataset, in the order of their starts: why each began and what it brought.

`<home>/retrain/<dataset>.jsonl`, a line when one starts and another when it ends. A last line that
a kill cut off counts as not written.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.reports.base import IsoTime
from tasks.core.reports.retrain import RetrainDecision, RetrainFacts
from tasks.core.strict import Strict
from tasks.edges.files import sync_file
from tasks.edges.settings import read_settings


class Retraining(Strict):
    """One retraining.

    started_at: of the clock.
    as_of: newest `known_at` of the rows that decided.
    triggers: the limits that were passed: age, error, coverage, drift; `asked` for a person's.
    reason: the same as a sentence.
    facts: the figures that decided.
    digest: the champion when it started.
    ended_at: of the clock; null while it runs, and when it failed.
    new_digest: the champion after it; the same as digest when it brought none.
    """

    started_at: IsoTime
    as_of: IsoTime
    triggers: tuple[str, ...]
    reason: str
    facts: RetrainFacts
    digest: str | None
    ended_at: IsoTime | None = None
    new_digest: str | None = None


def read_retrainings(dataset: str) -> list[Retraining]:
    """Every retraining of *dataset*, oldest first."""
    path = _get_path(dataset)
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    retrainings: dict[str, Retraining] = {}
    for line in lines:
        content = json.loads(line)
        before = retrainings.get(content["started_at"])
        merged = {**(before.model_dump(mode="json") if before else {}), **content}
        retrainings[content["started_at"]] = Retraining.model_validate(merged)
    return list(retrainings.values())


def write_start(decision: RetrainDecision, asked: str | None, digest: str | None) -> Retraining:
    """Note that a retraining starts now; on return the line is on disk.

    asked: the reason of a person who wants it, due or not.
    digest: the champion.
    """
    retraining = build_start(decision, asked, digest, datetime.now(UTC))
    _write_line(decision.dataset, retraining.model_dump(mode="json", exclude={"ended_at", "new_digest"}))
    return retraining


def build_start(
    decision: RetrainDecision, asked: str | None, digest: str | None, started_at: datetime
) -> Retraining:
    """A retraining that starts. Arguments as in `write_start`."""
    return Retraining(
        started_at=started_at,
        as_of=decision.as_of,
        triggers=(*decision.triggers, *(["asked"] if asked else [])),
        reason=asked or decision.reason,
        facts=decision.facts,
        digest=digest,
    )


def write_end(dataset: str, retraining: Retraining, digest: str | None) -> None:
    """Note that *retraining* has ended. digest: the champion now."""
    ended = retraining.model_copy(update={"ended_at": datetime.now(UTC), "new_digest": digest})
    _write_line(dataset, ended.model_dump(mode="json", include={"started_at", "ended_at", "new_digest"}))


def _write_line(dataset: str, content: dict[str, object]) -> None:
    path = _get_path(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.read_bytes() if path.exists() else b""
    with path.open("r+b" if path.exists() else "wb") as handle:
        handle.truncate(whole.rfind(b"\n") + 1)  # what a kill cut off
        handle.seek(0, 2)
        handle.write(json.dumps(content, sort_keys=True).encode() + b"\n")
    sync_file(path)


def _get_path(dataset: str) -> Path:
    return read_settings().home / "retrain" / f"{dataset}.jsonl"
