"""Rollouts: a challenger that takes over from the champion by steps.

`registry/<dataset>/rollout.jsonl` in home has a line for each move, chained like the registry's
journal; the last one is the rollout of now. `rollout.json` next to it is a report for people.
`rollout_errors.jsonl` has requests that the challenger failed.
"""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from tasks.core.errors import RolloutError
from tasks.core.reports.base import IsoTime
from tasks.core.reports.promote import GateDecision
from tasks.core.reports.rollout import RolloutReport
from tasks.core.rollout import RolloutEvidence, RolloutParams
from tasks.core.strict import Strict
from tasks.edges.artifacts import read_last_report, write_report
from tasks.edges.chained_journal import append_line, read_lines
from tasks.edges.event_log import Fields, append_event
from tasks.edges.files import hold_lock
from tasks.edges.registry import get_champion_path, read_champion
from tasks.edges.release_files import (
    delete_old_releases,
    get_release_folder,
    read_release_identity,
    write_release_copy,
)
from tasks.edges.signatures import sign_release
from tasks.edges.tracking import log_challenger

GATE, JUDGE, OPERATOR = "gate", "judge", "operator"
Command = Literal["pause", "resume", "abort"]
_MAX_ERROR = 300  # characters
_OF_ROLLOUT = ("dataset", "challenger", "champion", "model", "state", "weight", "reason")
_OF_JUDGEMENT = RolloutReport.model_fields.keys() - {*_OF_ROLLOUT, "alpha", "schema_version"}


class ApprovedFiles(NamedTuple):
    """What a person has approved.

    by: who. approval: its line in the journal of approvals. hashes: sha256 of the files, by path.
    """

    by: str | None
    approval: int | None
    hashes: Mapping[str, str]


NOT_NEEDED = ApprovedFiles(None, None, {})


class Rollout(Strict):
    """A rollout as one move has left it.

    challenger, champion: digests. model: the challenger's name.
    state: `promoted` and `back` are its end; paused, its weight does not rise.
    step: of `params.steps_frac`, from 0.
    params: those it began with.
    begun_as_of, moved_as_of: newest `known_at` of the rows when it began and at the last step.
    moved_at: of the clock. by, reason: who moved it, and why.
    evidence: that decided; null when none did.
    decision: of the gate.
    approved_by, approval: who approved it, and the line of that; null without one.
    """

    dataset: str
    challenger: str
    champion: str
    model: str
    state: Literal["running", "paused", "promoted", "back"]
    step: int
    params: RolloutParams
    begun_as_of: IsoTime
    moved_as_of: IsoTime
    moved_at: IsoTime
    by: str
    reason: str
    evidence: RolloutEvidence | None = None
    decision: GateDecision
    approved_by: str | None = None
    approval: int | None = None

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.state in {"running", "paused"}

    @property
    def weight(self) -> float:
        """The challenger's share of the series: all when it is champion, none when it went back."""
        return self.params.steps_frac[self.step] if self.is_active else float(self.state == "promoted")


def read_rollout(dataset: str) -> Rollout | None:
    """The last rollout of *dataset*, None before the first one.

    Raises JournalError when the journal's past was changed.
    """
    lines = read_lines(get_rollout_path(dataset))
    return Rollout.model_validate(lines[-1]) if lines else None


def find_active_rollout(dataset: str) -> Rollout | None:
    """The rollout of *dataset* that has not ended."""
    rollout = read_rollout(dataset)
    return rollout if rollout is not None and rollout.is_active else None


def read_rollout_moves(dataset: str) -> list[Rollout]:
    """Every move of every rollout of *dataset*, oldest first."""
    return [Rollout.model_validate(line) for line in read_lines(get_rollout_path(dataset))]


def get_rollout_path(dataset: str) -> Path:
    """The journal; it grows with each move."""
    return get_champion_path(dataset).with_name("rollout.jsonl")


def start_rollout(
    dataset: str,
    release_folder: Path,
    decision: GateDecision,
    params: RolloutParams,
    approved: ApprovedFiles = NOT_NEEDED,
) -> Rollout:
    """Begin the rollout of the sealed release in *release_folder*; a second call changes nothing.

    decision: of the gate that it passed. One that is active ends. A release that went back stays
    so, and one that this decision has made champion is not rolled out again: its last move is
    returned.
    Raises ReleaseError when the folder has no manifest, or was changed since it was *approved*.
    """
    release = read_release_identity(release_folder)
    with _hold_lock(dataset):
        moves = read_rollout_moves(dataset)
        earlier = [move for move in moves if move.challenger == release.digest]
        if earlier and (earlier[-1].state != "promoted" or earlier[-1].decision == decision):
            return earlier[-1]
        champion = read_champion(dataset)
        assert champion is not None, "without a champion there is nothing to compare with"
        folder = get_release_folder(release.digest)
        write_release_copy(dataset, release_folder, folder, sign_release, approved.hashes or None)
        if moves and moves[-1].is_active:
            reason = f"{release.digest[:12]} has passed the gate and takes its place"
            _write(moves[-1], {"state": "back", "by": GATE, "reason": reason})
        get_errors_path(dataset).unlink(missing_ok=True)
        rollout = Rollout(
            dataset=dataset,
            challenger=release.digest,
            champion=champion.digest,
            model=release.model,
            state="running",
            step=0,
            params=params,
            begun_as_of=decision.as_of,
            moved_as_of=decision.as_of,
            moved_at=datetime.now(UTC),
            by=GATE,
            reason=decision.reason,
            decision=decision,
            approved_by=approved.by,
            approval=approved.approval,
        )
        _append(rollout)
    promoted = {move.challenger for move in moves if move.state == "promoted"}  # the registry's to delete
    others = [move.challenger for move in moves if move.challenger not in promoted]
    delete_old_releases(dataset, [*others, rollout.challenger], None)
    return rollout


def write_move(
    rollout: Rollout,
    by: str,
    reason: str,
    apply: Callable[[], object] = lambda: None,
    /,
    **changes: object,
) -> Rollout:
    """Move *rollout*: on return the line is on disk.

    apply: called before, while no one else can move it. changes: of its fields.
    Raises RolloutError when it has been moved meanwhile; then nothing is applied.
    """
    with _hold_lock(rollout.dataset):
        if read_rollout(rollout.dataset) != rollout:
            raise RolloutError(
                f"The rollout of {rollout.dataset!r} has been moved meanwhile. Look again with `tidemill"
                " rollout status`."
            )
        apply()
        return _write(rollout, {**changes, "by": by, "reason": reason})


def apply_rollout_command(dataset: str, command: Command, by: str, reason: str) -> Rollout:
    """Pause, resume or abort the rollout of *dataset*; what is so already stays.

    Raises RolloutError when there is none.
    """
    with _hold_lock(dataset):
        rollout = find_active_rollout(dataset)
        if rollout is None:
            raise RolloutError(
                f"No rollout of {dataset!r} is active, so there is nothing to {command}. One begins when a"
                " release passes the gate and `rollout.steps_frac` has steps."
            )
        state = {"pause": "paused", "resume": "running", "abort": "back"}[command]
        if rollout.state == state:
            return rollout
        return _write(rollout, {"state": state, "by": by, "reason": reason or f"{command} by {by}"})


def write_judgement(rollout: Rollout, **found: object) -> None:
    """Write the report for people. found: of its fields, what the last judgement has found."""
    content = {
        **{name: getattr(rollout, name) for name in _OF_ROLLOUT},
        "alpha": rollout.params.bet_alpha,
        "as_of": rollout.begun_as_of,
    }
    report = RolloutReport.model_validate({**content, **found})
    write_report(get_judgement_path(rollout.dataset), report)


def find_judgement(dataset: str) -> RolloutReport | None:
    """What the last judgement has found; None without a rollout, or for a file of another form."""
    return read_last_report(get_judgement_path(dataset), RolloutReport)


def get_judgement_path(dataset: str) -> Path:
    """Where the report of the last judgement is."""
    return get_rollout_path(dataset).with_suffix(".json")


def write_challenger_error(dataset: str, challenger: str, error: str) -> None:
    """Note a request that *challenger* failed and the champion answered."""
    line = json.dumps({"challenger": challenger, "error": " ".join(error.split())[:_MAX_ERROR]}) + "\n"
    path = get_errors_path(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line.encode())  # one write: lines of two services do not mix
    finally:
        os.close(handle)


def read_challenger_errors(rollout: Rollout) -> list[str]:
    """What the challenger failed with, oldest first."""
    path = get_errors_path(rollout.dataset)
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    errors = [json.loads(line) for line in lines]
    return [error["error"] for error in errors if error["challenger"] == rollout.challenger]


def get_errors_path(dataset: str) -> Path:
    """Where the requests are noted that a challenger failed."""
    return get_champion_path(dataset).with_name("rollout_errors.jsonl")


def _write(rollout: Rollout, changes: Mapping[str, object]) -> Rollout:
    moved = Rollout.model_validate({**dict(rollout), "moved_at": datetime.now(UTC), **changes})
    _append(moved)
    return moved


def _append(rollout: Rollout) -> None:
    append_line(get_rollout_path(rollout.dataset), rollout.model_dump(mode="json"))
    last = find_judgement(rollout.dataset)
    found = {} if last is None or last.challenger != rollout.challenger else last.model_dump()
    write_judgement(rollout, **{name: value for name, value in found.items() if name in _OF_JUDGEMENT})
    folder = get_release_folder(rollout.challenger)
    log_challenger(rollout.dataset, rollout.challenger, folder, is_active=rollout.is_active)
    facts: Fields = {
        "state": rollout.state,
        "weight": rollout.weight,
        "by": rollout.by,
        "reason": rollout.reason,
    }
    append_event("rollout.moved", rollout.dataset, rollout.challenger, facts)


def _hold_lock(dataset: str) -> AbstractContextManager[object]:
    return hold_lock(get_rollout_path(dataset).with_suffix(".lock"))
