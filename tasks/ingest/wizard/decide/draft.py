"""An entry while it is being written: its values, the reasons for them, facts and questions."""

from dataclasses import dataclass, field
from typing import Any

from tasks.edges.params import STAGES

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class EntryProposal:
    """entry: what goes under `datasets.NAME`. reasons: comments by path into the entry. said:
    facts and caps to tell. questions: what files do not answer.
    """

    entry: dict[str, Any]
    reasons: dict[Path, str]
    said: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass
class EntryDraft:
    """An entry while it is being written."""

    entry: dict[str, Any] = field(
        default_factory=lambda: {"about": {}, "models": {}} | {stage: {} for stage in STAGES}
    )
    reasons: dict[Path, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def add_value(self, path: Path, value: Any, reason: str | None = None) -> None:
        """Set *value* at *path* of the entry, with the reason beside it."""
        place = self.entry
        for key in path[:-1]:
            place = place.setdefault(str(key), {})
        place[str(path[-1])] = value
        if reason:
            self.reasons[path] = reason
