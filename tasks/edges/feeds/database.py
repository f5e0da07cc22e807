"""A table of a database as a feed: it is asked again and again for the rows that came since, by a
column that rises.

Two ways. By id: rows are inserted and never changed, a later one has a larger id. By time: a row
that is inserted or changed says when, and the offset is (its second << 31) + its id, since both do
not fit into 64 bits otherwise; rows of one second come in the order of their ids.

Transactions commit out of order: a smaller id, or an earlier time, may become visible after a
larger one was read. So a row is read when it can have no unseen one before it, or when *settle_s*
have passed in which such a one would have become visible. A transaction that stays open longer than
that after it took its id (or its time) is not covered: its row lies behind the mark when it comes,
and is never read.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC as ZONE
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    MetaData,
    Row,
    Select,
    Table,
    and_,
    create_engine,
    extract,
    func,
    make_url,
    null,
    select,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, NoSuchTableError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from tasks.core.errors import FeedError
from tasks.core.records import RECORDS, Marks, PolledRecords

ID_BITS = 31  # of an offset by time; 32 are left for the second since 1970, which last until 2106
_AWAY = (OperationalError, InterfaceError)  # the server is not there, or does not answer just now
# A server that is gone without a word is noticed within half a minute.
_TUNING = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


class DatabaseFeed:
    """The rows of *table* (`schema.table`, or a view) at *url*, by the integer column *id*, or by
    the time column *updated_at* and *id*.

    id: unique, not negative. produced_at: of a table by id the column that says when a row was
    made; None: when it was read. columns: those that become fields, None: all. log: the name under
    which marks are kept, None: host, port and database of the address. every_s: between two
    questions when nothing more is there. told: called with the reason when the database stops
    answering.
    Raises FeedError when the database does not answer, or has no such table or column.
    """

    def __init__(
        self,
        url: str,
        table: str,
        id: str = "id",  # noqa: A002  (the parameter's name everywhere)
        updated_at: str | None = None,
        produced_at: str | None = None,
        columns: Sequence[str] | None = None,
        log: str | None = None,
        settle_s: float = 10.0,
        every_s: float = 1.0,
        told: Callable[[str], Any] = lambda _: None,
    ) -> None:
        try:
            address = make_url(url)
            # A connection a question: none is stale
            self._engine = create_engine(
                address.update_query_dict(_build_url_options(address)), poolclass=NullPool
            )
        except (SQLAlchemyError, ImportError) as error:
            raise FeedError(
                "TIDEMILL_FEED_DATABASE is no address that SQLAlchemy has a driver for"
                f" ({type(error).__name__}). Correct it, or install the driver."
            ) from error
        self._name = f"{table} of {address.render_as_string(hide_password=True).partition('?')[0]}"
        self._source = f"database:{log or _format_location(address)}/{table}/{f'{updated_at}+{id}' if updated_at else id}"
        self._settle_s, self._every_s, self._told = settle_s, every_s, told
        self._is_sqlite = address.get_backend_name() == "sqlite"
        found = self._fetch_table(table)
        self._id = self._get_column(found, id)
        self._produced = self._get_column(found, name) if (name := updated_at or produced_at) else null()
        if name and not isinstance(self._produced.type, DateTime):
            raise FeedError(
                f"{self._name}: {name} is {self._produced.type}, and not a column of times. Correct"
                " `feed.source`."
            )
        self._by_time = updated_at is not None
        self._second: ColumnElement[Any] = extract("epoch", self._produced) if self._by_time else null()
        # SQLite holds times as texts of many forms, so it is asked for their seconds, which no
        # index has.
        self._clock: ColumnElement[Any] = self._second if self._is_sqlite else self._produced
        self._fields = [
            self._get_column(found, name) for name in (found.columns.keys() if columns is None else columns)
        ]
        self._marks: Callable[[], Marks] = dict
        # The next offset to read; what lies below _past is not there any more, or was read
        self._next = self._past = 0
        self._wanted: int | None = None  # where reading has everything that was there at the first question
        self._high = -1  # the greatest id there is
        self._heights: deque[tuple[float, int]] = deque()  # (when it was seen, the greatest id), both rising
        self._ask_at, self._has_more = 0.0, False
        self._is_away = self._is_closed = False

    def open(self, marks: Callable[[], Marks]) -> None:
        """See Feed."""
        self._marks = marks
        self.rewind()

    def poll(self, n_records: int, within_s: float) -> PolledRecords:
        """See Feed.

        While the database does not answer there are no records. Raises FeedError when the table is
        not what it was, or may not be read.
        """
        if (wait_s := self._ask_at - time.monotonic()) > 0 or self._is_closed:
            time.sleep(within_s if self._is_closed else min(wait_s, within_s))
        if time.monotonic() < self._ask_at or self._is_closed:
            return PolledRecords(pl.DataFrame(schema=dict(RECORDS)), {})
        rows: list[tuple[int, Row[Any]]] = []
        self._has_more = False
        try:
            with self._engine.connect() as connection:
                rows = (self._read_by_time if self._by_time else self._read_by_id)(connection, n_records)
            self._is_away = False
        except _AWAY as error:
            self._report_away(error)
        except DBAPIError as error:
            raise FeedError(
                f"{self._name} cannot be read any more: {error.orig}. Look at the table and at the user's"
                " rights."
            ) from error
        self._ask_at = time.monotonic() + (0.0 if self._has_more else self._every_s)
        if not rows:
            return PolledRecords(pl.DataFrame(schema=dict(RECORDS)), {})
        self._next = rows[-1][0] + 1
        return PolledRecords(self._build_frame(rows), {self._source: self._next})

    def is_same(self) -> bool:
        """See Feed."""
        return True

    def rewind(self) -> None:
        """See Feed."""
        self._next, self._past, self._ask_at = self._marks().get(self._source, 0), 0, 0.0

    def lag(self) -> dict[str, int]:
        """Ids beyond the last one that was polled, of which some may be no rows; by time it is
        not known, and said to be 0.
        """
        return {self._source: max(self._high + 1 - self._next, 0)}

    def is_caught_up(self) -> bool:
        """See Feed; by what was there at the first question.

        A row that is not settled yet is waited for.
        """
        return self._wanted is not None and max(self._next, self._past) >= self._wanted

    def close(self) -> None:
        """See Feed."""
        self._is_closed = True

    def _read_by_id(self, connection: Connection, n: int) -> list[tuple[int, Row[Any]]]:
        """At most *n* rows: without a hole before them, or not above the greatest id that was
        seen `settle_s` ago.
        """
        now = time.monotonic()
        high = connection.scalar(select(func.max(self._id)))
        self._high = -1 if high is None else self._check_id(high)
        if -1 < self._high < self._next - 1:
            raise FeedError(
                f"{self._name} has ids up to {self._high}, but {self._next - 1} was read before: it was made"
                " anew or restored, or its newest rows were deleted. Nothing is skipped. To read the new"
                " table from its beginning, name another `feed.source.log`."
            )
        if not self._heights or self._high > self._heights[-1][1]:
            self._heights.append((time.monotonic(), self._high))
        while len(self._heights) > 1 and self._heights[1][0] <= now - self._settle_s:
            self._heights.popleft()
        seen_at, height = self._heights[0]
        settled = height if seen_at <= now - self._settle_s else -1
        if self._wanted is None:
            self._check_id(connection.scalar(select(func.min(self._id))) or 0)
            self._wanted = self._high + 1
        taken: list[tuple[int, Row[Any]]] = []
        expected = self._next
        found = connection.execute(
            self._build_select().where(self._id >= self._next).order_by(self._id).limit(n)
        ).all()
        for row in found:
            if (number := self._check_id(row[0])) < expected:
                raise FeedError(
                    f"{self._name} has {self._id.name} {number} twice. Name a column that is unique in"
                    " `feed.source.id`."
                )
            if number > settled and number != expected:
                break
            taken.append((number, row))
            expected = number + 1
        self._has_more = len(taken) == n
        self._past = max(expected, settled + 1) if len(taken) == len(found) < n else expected
        return taken

    def _read_by_time(self, connection: Connection, n: int) -> list[tuple[int, Row[Any]]]:
        """At most *n* rows whose second is over since `settle_s`, second by second, by id in
        each.
        """
        now = self._fetch_now(connection)
        bound = int(now - self._settle_s)
        if self._wanted is None:
            self._check_id(connection.scalar(select(func.min(self._id))) or 0)
            newest = connection.execute(self._build_select().order_by(self._clock.desc()).limit(1)).all()
            self._wanted = (min(_get_second(newest[0]), int(now)) + 1) << ID_BITS if newest else 0
        second, number = divmod(self._next, 1 << ID_BITS)
        while second < bound:
            within = and_(self._since(second), ~self._since(second + 1), self._id >= number)
            # An index on the id would be walked from its beginning for the few rows of a second
            by_id = self._id + 0
            rows = list(connection.execute(self._build_select().where(within).order_by(by_id).limit(n)))
            second, number = second + 1, 0
            if rest := n - len(rows):
                beyond = and_(self._since(second), ~self._since(bound))
                more = connection.execute(
                    self._build_select().where(beyond).order_by(self._clock).limit(rest)
                ).all()
                # The last second may go on beyond the limit
                second = _get_second(more[-1]) if len(more) == rest else bound
                rows += sorted(
                    (row for row in more if _get_second(row) < second),
                    key=lambda row: (_get_second(row), row[0]),
                )
                self._past = second << ID_BITS
            self._has_more = second < bound or not rest
            if rows:
                return [(_get_second(row) << ID_BITS | self._check_id(row[0]), row) for row in rows]
        return []

    def _fetch_now(self, connection: Connection) -> float:
        """Seconds since 1970 by the clock that has set the times."""
        return float(connection.scalar(select(extract("epoch", func.current_timestamp()))) or 0)

    def _build_select(self) -> Select[Any]:
        """id, when it was made and in which second (null where that is not needed), the fields."""
        return select(
            self._id,
            self._produced.label("_at"),
            self._second.label("_second"),
            *(f.label(f"f_{f.name}") for f in self._fields),
        )

    def _since(self, second: int) -> ColumnElement[bool]:
        """Rows of this second and later ones."""
        if self._is_sqlite:
            return self._clock >= second
        moment = datetime.fromtimestamp(second, ZONE)
        return self._clock >= (
            moment if getattr(self._clock.type, "timezone", False) else moment.replace(tzinfo=None)
        )

    def _check_id(self, value: Any) -> int:
        most = 1 << (ID_BITS if self._by_time else 63)
        if not isinstance(value, int) or not 0 <= value < most:
            raise FeedError(
                f"{self._name} has {self._id.name} {value!r}; `feed.source.id` must be a whole number from 0"
                f" to {most - 1}."
            )
        return value

    def _build_frame(self, rows: list[tuple[int, Row[Any]]]) -> pl.DataFrame:
        names, now = [str(field.name) for field in self._fields], datetime.now(ZONE)
        values = [_encode_record(names, row[3:]) for _, row in rows]
        return pl.DataFrame(
            {
                "_source": [self._source] * len(rows),
                "_offset": [offset for offset, _ in rows],
                "_timestamp": [now if row[1] is None else _convert_to_utc(row[1]) for _, row in rows],
                "_key": [None] * len(rows),
                "_value": values,
                "_headers": [None] * len(rows),
            },
            schema=dict(RECORDS),
        )

    def _fetch_table(self, table: str) -> Table:
        schema, _, name = table.rpartition(".")
        try:
            return Table(name, MetaData(), schema=schema or None, autoload_with=self._engine)
        except NoSuchTableError as error:
            raise FeedError(
                f"There is no {self._name}. Make it, or correct `feed.source.table` (`schema.table` where it"
                " is in no schema of the search path)."
            ) from error
        except SQLAlchemyError as error:
            raise FeedError(
                f"{self._name}: the database does not answer: {getattr(error, 'orig', error)}. Start it, or"
                " correct TIDEMILL_FEED_DATABASE."
            ) from error

    def _get_column(self, table: Table, name: str) -> ColumnElement[Any]:
        if name not in table.columns:
            raise FeedError(
                f"{self._name} has no column {name!r}; it has {', '.join(table.columns.keys())}. Correct"
                " `feed.source`."
            )
        return table.columns[name]

    def _report_away(self, error: DBAPIError) -> None:
        if not self._is_away:
            self._told(f"{self._name}: {error.orig}")
        self._is_away = True


def _build_url_options(url: URL) -> dict[str, str]:
    """What the address does not say itself."""
    return (
        {name: value for name, value in _TUNING.items() if name not in url.query}
        if url.get_backend_name() == "postgresql"
        else {}
    )


def _format_location(url: URL) -> str:
    """Host, port and database; of SQLite its file."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:{Path(url.database or '').resolve()}"
    host = url.host or url.query.get("host", "")
    return f"{host}:{url.port or ''}/{url.database}"


def _get_second(row: Row[Any]) -> int:
    """Of what `_build_select` gives."""
    return int(row[2] // 1)


def _convert_to_utc(value: datetime) -> datetime:
    """A time without a zone is in UTC."""
    return value.astimezone(ZONE) if value.tzinfo else value.replace(tzinfo=ZONE)


def _encode_record(names: Sequence[str], values: Sequence[Any]) -> bytes:
    """A JSON object; times are ISO in UTC.

    What is no number stays so, where JSON would have null.
    """
    fields = dict(zip(names, values, strict=True))
    value = orjson.dumps(fields, _encode_json_value, orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)
    if b"null" in value and any(one != one for one in values):  # noqa: PLR0124  (NaN)
        return json.dumps(fields, default=str).encode()
    return value


def _encode_json_value(value: Any) -> Any:
    """What JSON has no word for: decimals as numbers, bytes as hexadecimal, anything else as its
    text.
    """
    if isinstance(value, Decimal):
        return float(value)
    return f"0x{bytes(value).hex()}" if isinstance(value, bytes | bytearray | memoryview) else str(value)
