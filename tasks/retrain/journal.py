"""The retrainings of a dataset, in the order of their starts: why each began and what it brought.

`<home>/retrain/<dataset>.jsonl`, a line when one starts, another when it ends, and a third when it
has shown whether it helped. A last line that a kill cut off counts as not written.
"""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tasks.core.reports.base import IsoTime
from tasks.core.reports.retrain import Recipe, RetrainDecision, RetrainFacts
from tasks.core.strict import Strict
from tasks.edges.files import hold_lock, sync_file
from tasks.edges.processes import ProcessIdentity, build_process_identity, is_running
from tasks.edges.settings import read_settings

_END = {"ended_at", "new_digest", "verdict", "error", "outcome"}  # written later


class RetrainOutcome(Strict):
    """The new champion against the former one, on the cutoffs after its promotion.

    as_of: newest `known_at` of the outcomes.
    n_cutoffs: compared.
    gain_frac: share by which the new champion's scaled loss is lower; below 0, it did not help.
    p: one-sided chance of such a gain from luck alone.
    """

    as_of: IsoTime
    n_cutoffs: int
    gain_frac: float
    p: float


class RetrainRequest(Strict):
    """Who wants a retraining that no figure asks for.

    by: an operator starts it whatever is decided; a schedule keeps to cool-down and budget.
    reason: a sentence.
    """

    by: Literal["operator", "schedule"]
    reason: str


class Retraining(Strict):
    """One retraining.

    started_at: of the clock.
    as_of: newest `known_at` of the rows that decided.
    triggers: as in `RetrainDecision`, and `operator` or `schedule` for a request.
    reason: the same as a sentence.
    recipe, recipe_reason: as in `RetrainDecision`.
    facts: the figures that decided.
    digest: the champion when it started.
    process: what runs it; null in a simulation.
    ended_at: of the clock; null while it runs, and after a crash.
    new_digest: the champion after it; the same as digest when it brought none, null for a failure.
    verdict: of the gate, with its reason.
    error: why it failed.
    outcome: whether it helped; null until enough is known, and when it brought no new champion.
    """

    started_at: IsoTime
    as_of: IsoTime
    triggers: tuple[str, ...]
    reason: str
    facts: RetrainFacts
    digest: str | None
    recipe: Recipe = "full"
    recipe_reason: str = ""
    process: ProcessIdentity | None = None
    ended_at: IsoTime | None = None
    new_digest: str | None = None
    verdict: str | None = None
    error: str | None = None
    outcome: RetrainOutcome | None = None

    @property
    def is_second_try(self) -> bool:
        """Whether it repeats one that was interrupted."""
        return "interrupted" in self.triggers

    @property
    def is_running(self) -> bool:
        """Whether its process still works on it."""
        return self.ended_at is None and self.process is not None and is_running(self.process)


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


def write_start(decision: RetrainDecision, request: RetrainRequest | None, digest: str | None) -> Retraining:
    """Note that this process starts a retraining now; on return the line is on disk.

    digest: the champion.
    """
    started = build_start(decision, request, digest, datetime.now(UTC))
    retraining = started.model_copy(update={"process": build_process_identity("retraining", os.getpid())})
    _write_line(decision.dataset, retraining.model_dump(mode="json", exclude=_END))
    return retraining


def build_start(
    decision: RetrainDecision, request: RetrainRequest | None, digest: str | None, started_at: datetime
) -> Retraining:
    """A retraining that starts. Arguments as in `write_start`."""
    return Retraining(
        started_at=started_at,
        as_of=decision.as_of,
        triggers=(*decision.triggers, *([request.by] if request else [])),
        reason=request.reason if request else decision.reason,
        recipe=decision.recipe,
        recipe_reason=decision.recipe_reason,
        facts=decision.facts,
        digest=digest,
    )


def write_end(dataset: str, retraining: Retraining, digest: str | None, verdict: str) -> None:
    """Note that *retraining* has ended. digest: the champion now. verdict: of the gate."""
    ended = {"ended_at": datetime.now(UTC), "new_digest": digest, "verdict": verdict}
    _write_addition(dataset, retraining, ended)


def write_failure(dataset: str, retraining: Retraining, error: str) -> None:
    """Note that *retraining* has failed. error: why."""
    _write_addition(dataset, retraining, {"ended_at": datetime.now(UTC), "error": error})


def write_outcome(dataset: str, retraining: Retraining, outcome: RetrainOutcome) -> None:
    """Note whether *retraining* helped."""
    _write_addition(dataset, retraining, {"outcome": outcome})


def _write_addition(dataset: str, retraining: Retraining, update: Mapping[str, object]) -> None:
    added = retraining.model_copy(update=update)
    _write_line(dataset, added.model_dump(mode="json", include={"started_at", *update}))


def _write_line(dataset: str, content: Mapping[str, object]) -> None:
    path = _get_path(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(path.with_suffix(".lock")):  # a refresh writes an outcome while a training ends
        whole = path.read_bytes() if path.exists() else b""
        with path.open("r+b" if path.exists() else "wb") as handle:
            handle.truncate(whole.rfind(b"\n") + 1)  # what a kill cut off
            handle.seek(0, 2)
            handle.write(json.dumps(content, sort_keys=True).encode() + b"\n")
        sync_file(path)


def _get_path(dataset: str) -> Path:
    return read_settings().home / "retrain" / f"{dataset}.jsonl"
