"""What a feed leaves to be read: the window that the chain may see, and each member's status."""

from typing import ClassVar, Literal

from pydantic import field_validator

from tasks.core.reports.base import ABSENT, IsoTime, Report
from tasks.core.strict import Strict


class FeedWindow(Report):
    """The rows of the feed's table that the chain may see.

    kind: `feed`.
    dataset: whose feed it is.
    version: of the table when the window closed.
    marks: by source, the first offset that is not in the window.
    end: event_time before which rows are meant.
    watermark: the newest event_time that every series that still sends has passed.
    n_rows, n_series: what the window holds.
    bars: of a feed of ticks, the folder of its bars; absent otherwise, as the next three.
    closings: the last closing of bars that is in the window.
    n_changed: bars that late ticks have changed since the window before.
    changed: the newest of them as [series_id, event_time].
    """

    PATH: ClassVar[str] = "data/source/window.json"

    kind: Literal["feed"] = "feed"
    dataset: str
    version: int
    marks: dict[str, int]
    end: IsoTime
    watermark: IsoTime
    n_rows: int
    n_series: int
    bars: str | None = ABSENT
    closings: int | None = ABSENT
    n_changed: int | None = ABSENT
    changed: tuple[tuple[str, IsoTime], ...] | None = ABSENT


class SourceLag(Strict):
    """One source that a member reads.

    source: its name.
    next_offset: the table's next offset of it.
    lag: records that were not polled yet.
    """

    source: str
    next_offset: int
    lag: int


class MemberStatus(Report):
    """What one landing process wrote last, every two seconds.

    dataset: whose feed it lands; null, as all but the next four, when it could not start.
    member, pid: which process it is.
    at: when it wrote this, the wall clock, UTC.
    fault: why it does not land; null while it does.
    started: the wall clock, UTC.
    records_per_s: over the last two seconds.
    counts: records landed since its start, by disposition.
    quarantine_frac: share of them that is in quarantine.
    version: of the table.
    watermark: newest event_time landed.
    buffer_bytes: of records that it holds.
    sources: what it reads.
    """

    PATH: ClassVar[str] = "TIDEMILL_HOME/feed/<dataset>/status-<member>.json"

    member: str
    pid: int
    at: IsoTime
    fault: str | None
    sources: tuple[SourceLag, ...] = ()
    dataset: str | None = None
    started: IsoTime | None = None
    records_per_s: float | None = None
    counts: dict[str, int] | None = None
    quarantine_frac: float | None = None
    version: int | None = None
    watermark: IsoTime | None = None
    buffer_bytes: int | None = None


class FeedEvent(Strict):
    """A line of events.jsonl, in the folder of a feed: what an operator should look at.

    event: its name; docs/runbooks has a page for each.
    at: when it was raised, the wall clock, UTC.
    about: the event in a sentence.
    facts: of this one. `reason`: what another program reported; `said` in an earlier version.
    """

    event: str
    at: IsoTime
    about: str
    facts: dict[str, object]

    @field_validator("facts", mode="before")
    @classmethod
    def _read_old_name(cls, facts: object) -> object:
        if isinstance(facts, dict) and "said" in facts:
            return {"reason" if key == "said" else key: value for key, value in facts.items()}
        return facts


class SeenMember(MemberStatus):
    """A member's status as it is read.

    is_alive: whether it wrote within the last seconds; else it hangs or is gone.
    """

    is_alive: bool


class FeedTableStatus(Strict):
    """The feed's table by itself.

    version: its newest.
    rows: by disposition.
    marks: by source, the next offset to read.
    n_files: in how many files the rows are.
    """

    version: int
    rows: dict[str, int]
    marks: dict[str, int]
    n_files: int


class FeedStatus(Strict):
    """What can be seen of a dataset's feed.

    dataset: whose feed it is.
    table: null before the first record.
    window: the one that closed last; null while none has.
    members: the landing processes, by name.
    n_gaps: steps without a bar; null where no bars are made.
    """

    dataset: str
    table: FeedTableStatus | None
    window: FeedWindow | None
    members: tuple[SeenMember, ...]
    n_gaps: int | None


class LandedFeed(Strict):
    """What a bounded run landed.

    counts: records by disposition.
    window: the one that is closed now; null while none has closed.
    """

    counts: dict[str, int]
    window: FeedWindow | None
