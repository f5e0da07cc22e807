"""Errors, split by who has to act.

Each message names the thing, the fact, the rule and the next move.
"""

from collections.abc import Sequence


class TidemillError(Exception):
    """Anything a person can fix; commands print its message alone, without a traceback."""


class ParamsError(TidemillError):
    """`params.yaml` has a value that cannot be, or none where one is needed."""


class SettingsError(TidemillError):
    """The environment points to something that is not there: a port, a folder, a program."""


class AccessError(TidemillError):
    """The keys of callers cannot be read or changed as asked."""


class SourceError(TidemillError):
    """A file, table or stream cannot be read as the dataset's entry says.

    The message names file and row where there is one.
    """


class FrameError(TidemillError):
    """A frame does not have the columns, types or order that its schema promises."""


class ContractError(TidemillError):
    """Too many rows break the data contract, or one of the first checks fails."""


class CalendarError(TidemillError):
    """A time is not on its calendar, or the calendar does not reach that far."""


class FeatureInputError(TidemillError):
    """A declared feature cannot be computed from the columns or with the numbers given."""


class LeakError(TidemillError):
    """A feature knows what could not be known at its cutoff, or it was not checked."""


class FoldError(TidemillError):
    """The walk-forward plan does not fit into the history."""


class ScoreInputError(TidemillError):
    """A score is undefined for these inputs."""


class ForecasterError(TidemillError):
    """A forecaster cannot be fitted, loaded or converted."""


class ReleaseError(TidemillError):
    """A release is incomplete, altered, or cannot answer."""


class ReleaseNotKeptError(ReleaseError):
    """A release that there is not, or whose bytes are deleted.

    fact: what is missing. kept: versions of those that there are.
    """

    def __init__(self, fact: str, kept: Sequence[str]) -> None:
        """fact: the sentence before the list of those that are kept."""
        super().__init__(f"{fact} Kept are {', '.join(kept) or 'none'} (`tidemill releases`).")
        self.fact, self.kept = fact, tuple(kept)


class ApprovalError(TidemillError):
    """A promotion that needs an approval has none that holds."""


class JournalError(TidemillError):
    """An append-only journal was changed after it was written."""


class RolloutError(TidemillError):
    """A rollout cannot be moved as asked: none is active, or it has been moved meanwhile."""


class CostError(TidemillError):
    """A request needs more work than is done for one.

    n_needed, n_allowed: in the message's unit.
    """

    def __init__(self, message: str, n_needed: int, n_allowed: int) -> None:
        super().__init__(message)
        self.n_needed, self.n_allowed = n_needed, n_allowed


class StageError(TidemillError):
    """A stage did not end well; carries what it printed last."""


class FeedError(TidemillError):
    """The feed cannot go on: a topic, a table, an offset or a schema is not what it should be."""


class TopicMissingError(FeedError):
    """The brokers at *address* answer, and have no topic of that name."""

    def __init__(self, address: str, topic: str) -> None:
        message = f"Kafka at {address} has no topic {topic!r}. Make it, or correct `feed.source.topic`."
        super().__init__(message)
        self.address, self.topic = address, topic

    def __reduce__(self) -> tuple[type["TopicMissingError"], tuple[str, str]]:
        """By its facts, so that it comes out of another process as it went in."""
        return TopicMissingError, (self.address, self.topic)


class OffsetMovedError(FeedError):
    """Another writer has read on, and nothing was written.

    What is held must be forgotten and read again from the table's offset.
    """


class OffsetLostError(FeedError):
    """What is to be read next is not in the source any more. Nothing was skipped."""


class FencedError(FeedError):
    """Another process took this one's place in the group of a topic.

    Nothing that was held was committed.
    """


class OtherDatasetError(TidemillError):
    """A file is another dataset's than the current one."""

    def __init__(self, path: str, found: str, current: str) -> None:
        """path: the file. found: the dataset that it is of."""
        super().__init__(
            f"{path} is of the dataset {found!r}, and the current dataset is {current!r}. A stage reads and"
            f" changes its own dataset alone. `tidemill run` or `dvc repro` makes the files of {current!r};"
            f" `tidemill use {found}` goes back."
        )
        self.path, self.found, self.current = path, found, current
