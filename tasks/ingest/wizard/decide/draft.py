"""A dataset's entry, while it is written and when it is complete."""

from dataclasses import dataclass, field
from typing import Any

from tasks.edges.params import STAGES

EntryPath = tuple[str | int, ...]


@dataclass(frozen=True)
class EntryProposal:
    """A complete entry.

    entry: what goes under `datasets.NAME`.
    reasons: path into the entry -> comment.
    facts: what the owner should know, caps among it.
    questions: what the files do not answer.
    """

    entry: dict[str, Any]
    reasons: dict[EntryPath, str]
    facts: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass
class EntryDraft:
    """An entry while it is being written."""

    entry: dict[str, Any] = field(
        default_factory=lambda: {"about": {}, "models": {}} | {stage: {} for stage in STAGES}
    )
    reasons: dict[EntryPath, str] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def add_value(self, path: EntryPath, value: Any, reason: str | None = None) -> None:
        """Set *value* at *path* of the entry; *reason* becomes its comment."""
        section = self.entry
        for key in path[:-1]:
            section = section.setdefault(str(key), {})
        section[str(path[-1])] = value
        if reason:
            self.reasons[path] = reason
