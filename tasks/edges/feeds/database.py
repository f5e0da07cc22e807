"""A table of a database as a feed: asked again and again for the rows that came since.

By id: rows are inserted and never changed, and a later one has a larger id. By time: a row that is
inserted or changed has the time of it, and its offset is (the second << 31) + its id, since both do
not fit into 64 bits otherwise; rows of one second come in the order of their ids.

Transactions commit out of order: a smaller id, or an earlier time, may become visible after a
larger one was read. So a row is read when no unseen row can come before it, or when *settle_s* have
passed in which such a row would have become visible. A transaction that is open for longer than
that after it took its id (or its time) is not covered: its row is below the stored offset when it
becomes visible, and is never read.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import orjson
import polars as pl
import sqlalchemy as sa
from pydantic import Field, model_validator
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, NoSuchTableError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from tasks.core.errors import FeedError
from tasks.core.records import RECORDS, Offsets, PolledRecords, build_empty_poll
from tasks.edges.feeds.base import SourceContext, SourceParams
from tasks.edges.settings import read_settings

ID_BITS = 31  # of an offset by time; 32 are left for the second since 1970, which last until 2106
_DOWN = (OperationalError, InterfaceError)  # the server does not answer at the moment
# A server that disappears without closing its connection is noticed within half a minute
_TUNING = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


class DatabaseParams(SourceParams):
    """A table (or view). Its database is in TIDEMILL_FEED_DATABASE.

    table: `schema.table`.
    id: a unique whole number that rises as rows are inserted.
    updated_at: when a row was inserted or changed. The table is read by it, and *id* orders the
    rows of one second.
    produced_at: without updated_at, when a row was made; None: when it is read.
    columns: those that become fields; None: all.
    log: the name under which the table's offsets are stored; None: host, port and database.
    settle_s: no transaction is open longer after it took its id, or its time.
    every_s: between two requests when nothing more is there.
    """

    table: str
    id: str = "id"
    updated_at: str | None = None
    produced_at: str | None = None
    columns: tuple[str, ...] | None = None
    log: str | None = None
    settle_s: Annotated[float, Field(ge=0)] = 10.0
    every_s: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _check_one_time(self) -> Self:
        if self.updated_at and self.produced_at:
            raise ValueError(
                "`feed.source` has updated_at, which says when a row was produced. Leave out produced_at."
            )
        return self


class DatabaseFeed:
    """The rows of a table at *url*. report_down: see SourceContext.

    Raises FeedError when the database does not answer, or has no such table or column.
    """

    Params: ClassVar[type[SourceParams]] = DatabaseParams

    def __init__(
        self, url: str, params: DatabaseParams, report_down: Callable[[str], Any] = lambda _: None
    ) -> None:
        try:
            address = sa.make_url(url)
            # A connection a request: none is out of date
            self._engine = sa.create_engine(
                address.update_query_dict(_build_url_options(address)), poolclass=NullPool
            )
        except (SQLAlchemyError, ImportError) as error:
            raise FeedError(
                "TIDEMILL_FEED_DATABASE is no address that SQLAlchemy has a driver for"
                f" ({type(error).__name__}). Correct it, or install the driver."
            ) from error
        self._params, self._report_down = params, report_down
        self._name = f"{params.table} of {address.render_as_string(hide_password=True).partition('?')[0]}"
        order = f"{params.updated_at}+{params.id}" if params.updated_at else params.id
        self._source = f"database:{params.log or _format_location(address)}/{params.table}/{order}"
        self._is_sqlite = address.get_backend_name() == "sqlite"
        self._select_columns(self._fetch_table(params.table))
        self._read_offsets: Callable[[], Offsets] = dict
        # The next offset to read; what is below _passed was read, or is not there any more
        self._next = self._passed = 0
        self._wanted_end: int | None = None  # of all that was there at the first request
        self._max_id = -1  # the greatest that there is
        self._max_ids: deque[tuple[float, int]] = deque()  # (when it was seen, the greatest id), both rising
        self._request_at, self._has_more = 0.0, False
        self._is_down = self._is_closed = False

    @classmethod
    def connect(cls, params: DatabaseParams, context: SourceContext) -> Self:
        """See RecordSource."""
        if not (url := read_settings().feed_database):
            raise FeedError(
                "`feed.source` is a database, and nothing says where it is. Set TIDEMILL_FEED_DATABASE"
                " (postgresql+psycopg://USER:PASSWORD@HOST/NAME)."
            )
        return cls(url, params, context.report_down)

    def open(self, read_offsets: Callable[[], Offsets]) -> None:
        """See RecordSource."""
        self._read_offsets = read_offsets
        self.rewind()

    def poll(self, n_records: int, timeout_s: float) -> PolledRecords:
        """See RecordSource.

        Raises FeedError when the table is not what it was, or may not be read.
        """
        if (wait_s := self._request_at - time.monotonic()) > 0 or self._is_closed:
            time.sleep(timeout_s if self._is_closed else min(wait_s, timeout_s))
        if time.monotonic() < self._request_at or self._is_closed:
            return build_empty_poll()
        rows: list[tuple[int, sa.Row[Any]]] = []
        self._has_more = False
        try:
            with self._engine.connect() as connection:
                read = self._read_by_time if self._is_by_time else self._read_by_id
                rows = read(connection, n_records)
            self._is_down = False
        except _DOWN as error:
            self._report_down_once(error)
        except DBAPIError as error:
            raise FeedError(
                f"{self._name} cannot be read any more: {error.orig}. Check the table and the user's rights."
            ) from error
        self._request_at = time.monotonic() + (0.0 if self._has_more else self._params.every_s)
        if not rows:
            return build_empty_poll()
        self._next = rows[-1][0] + 1
        return PolledRecords(self._build_frame(rows), {self._source: self._next})

    def is_same(self) -> bool:
        """See RecordSource."""
        return True

    def rewind(self) -> None:
        """See RecordSource."""
        self._next, self._passed, self._request_at = self._read_offsets().get(self._source, 0), 0, 0.0

    def compute_lag(self) -> dict[str, int]:
        """Ids beyond the last one that was polled, of which some may be no rows.

        By time it is not known, and given as 0.
        """
        return {self._source: max(self._max_id + 1 - self._next, 0)}

    def is_caught_up(self) -> bool:
        """See RecordSource; by what was there at the first request, settled or not."""
        return self._wanted_end is not None and max(self._next, self._passed) >= self._wanted_end

    def close(self) -> None:
        """See RecordSource."""
        self._is_closed = True

    def _read_by_id(self, connection: sa.Connection, n: int) -> list[tuple[int, sa.Row[Any]]]:
        """At most *n* rows: without a gap before them, or settled.

        Settled is what is not above the greatest id that was seen `settle_s` ago.
        """
        settled = self._find_settled_id(connection)
        if self._wanted_end is None:
            self._check_id(connection.scalar(sa.select(sa.func.min(self._id))) or 0)
            self._wanted_end = self._max_id + 1
        taken: list[tuple[int, sa.Row[Any]]] = []
        expected = self._next
        rows = connection.execute(
            self._build_select().where(self._id >= self._next).order_by(self._id).limit(n)
        ).all()
        for row in rows:
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
        self._passed = max(expected, settled + 1) if len(taken) == len(rows) < n else expected
        return taken

    def _find_settled_id(self, connection: sa.Connection) -> int:
        """The greatest id that was seen `settle_s` ago; -1 when none was."""
        now, settle_s = time.monotonic(), self._params.settle_s
        max_id = connection.scalar(sa.select(sa.func.max(self._id)))
        self._max_id = -1 if max_id is None else self._check_id(max_id)
        if -1 < self._max_id < self._next - 1:
            raise FeedError(
                f"{self._name} has ids up to {self._max_id}, but {self._next - 1} was read before: it was"
                " made again or restored, or its newest rows were deleted. Nothing is skipped. To read the"
                " new table from its beginning, name another `feed.source.log`."
            )
        if not self._max_ids or self._max_id > self._max_ids[-1][1]:
            self._max_ids.append((time.monotonic(), self._max_id))
        while len(self._max_ids) > 1 and self._max_ids[1][0] <= now - settle_s:
            self._max_ids.popleft()
        seen_at, settled = self._max_ids[0]
        return settled if seen_at <= now - settle_s else -1

    def _read_by_time(self, connection: sa.Connection, n: int) -> list[tuple[int, sa.Row[Any]]]:
        """At most *n* rows whose second ended `settle_s` ago, second by second, by id in each."""
        now = self._fetch_now(connection)
        bound = int(now - self._params.settle_s)
        if self._wanted_end is None:
            self._check_id(connection.scalar(sa.select(sa.func.min(self._id))) or 0)
            newest = connection.execute(self._build_select().order_by(self._clock.desc()).limit(1)).all()
            self._wanted_end = (min(_get_second(newest[0]), int(now)) + 1) << ID_BITS if newest else 0
        second, number = divmod(self._next, 1 << ID_BITS)
        while second < bound:
            within = sa.and_(self._since(second), ~self._since(second + 1), self._id >= number)
            # An index on the id would be walked from its beginning for the few rows of a second
            by_id = self._id + 0
            rows = list(connection.execute(self._build_select().where(within).order_by(by_id).limit(n)))
            second, number = second + 1, 0
            if rest := n - len(rows):
                beyond = sa.and_(self._since(second), ~self._since(bound))
                more = connection.execute(
                    self._build_select().where(beyond).order_by(self._clock).limit(rest)
                ).all()
                # The last second may go on beyond the limit
                second = _get_second(more[-1]) if len(more) == rest else bound
                rows += sorted(
                    (row for row in more if _get_second(row) < second),
                    key=lambda row: (_get_second(row), row[0]),
                )
                self._passed = second << ID_BITS
            self._has_more = second < bound or not rest
            if rows:
                return [(_get_second(row) << ID_BITS | self._check_id(row[0]), row) for row in rows]
        return []

    def _fetch_now(self, connection: sa.Connection) -> float:
        """Seconds since 1970 by the database's clock, which has set the times."""
        return float(connection.scalar(sa.select(sa.extract("epoch", sa.func.current_timestamp()))) or 0)

    def _build_select(self) -> sa.Select[Any]:
        """id, when a row was made and in which second (null where not needed), the fields."""
        return sa.select(
            self._id,
            self._produced_at.label("_at"),
            self._second.label("_second"),
            *(f.label(f"f_{f.name}") for f in self._fields),
        )

    def _since(self, second: int) -> sa.ColumnElement[bool]:
        """Rows of this second and later ones."""
        if self._is_sqlite:
            return self._clock >= second
        moment = datetime.fromtimestamp(second, UTC)
        return self._clock >= (
            moment if getattr(self._clock.type, "timezone", False) else moment.replace(tzinfo=None)
        )

    def _check_id(self, value: Any) -> int:
        limit = 1 << (ID_BITS if self._is_by_time else 63)
        if not isinstance(value, int) or not 0 <= value < limit:
            raise FeedError(
                f"{self._name} has {self._id.name} {value!r}; `feed.source.id` must be a whole number from 0"
                f" to {limit - 1}."
            )
        return value

    def _build_frame(self, rows: list[tuple[int, sa.Row[Any]]]) -> pl.DataFrame:
        names, now = [str(field.name) for field in self._fields], datetime.now(UTC)
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

    def _select_columns(self, table: sa.Table) -> None:
        """Keep the columns that are read. Raises FeedError for one that *table* does not have."""
        params = self._params
        self._id = self._get_column(table, params.id)
        name = params.updated_at or params.produced_at
        self._produced_at = self._get_column(table, name) if name else sa.null()
        if name and not isinstance(self._produced_at.type, sa.DateTime):
            raise FeedError(
                f"{self._name}: {name} is {self._produced_at.type}, and not a column of times. Correct"
                " `feed.source`."
            )
        self._is_by_time = is_by_time = params.updated_at is not None
        self._second: sa.ColumnElement[Any] = (
            sa.extract("epoch", self._produced_at) if is_by_time else sa.null()
        )
        # SQLite holds times as texts of many forms, so it is asked for their seconds, which no
        # index has
        self._clock: sa.ColumnElement[Any] = self._second if self._is_sqlite else self._produced_at
        names = table.columns.keys() if params.columns is None else params.columns
        self._fields = [self._get_column(table, name) for name in names]

    def _fetch_table(self, table: str) -> sa.Table:
        schema, _, name = table.rpartition(".")
        try:
            return sa.Table(name, sa.MetaData(), schema=schema or None, autoload_with=self._engine)
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

    def _get_column(self, table: sa.Table, name: str) -> sa.ColumnElement[Any]:
        if name not in table.columns:
            raise FeedError(
                f"{self._name} has no column {name!r}; it has {', '.join(table.columns.keys())}. Correct"
                " `feed.source`."
            )
        return table.columns[name]

    def _report_down_once(self, error: DBAPIError) -> None:
        if not self._is_down:
            self._report_down(f"{self._name}: {error.orig}")
        self._is_down = True


def _build_url_options(url: URL) -> dict[str, str]:
    """The options that *url* does not have itself."""
    return (
        {name: value for name, value in _TUNING.items() if name not in url.query}
        if url.get_backend_name() == "postgresql"
        else {}
    )


def _format_location(url: URL) -> str:
    """Host, port and database; the file of SQLite."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:{Path(url.database or '').resolve()}"
    host = url.host or url.query.get("host", "")
    return f"{host}:{url.port or ''}/{url.database}"


def _get_second(row: sa.Row[Any]) -> int:
    """The second of a row that `_build_select` asked for."""
    return int(row[2] // 1)


def _convert_to_utc(value: datetime) -> datetime:
    """A time without a zone is in UTC."""
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _encode_record(names: Sequence[str], values: Sequence[Any]) -> bytes:
    """A JSON object; times are ISO in UTC. NaN stays NaN, where JSON would have null."""
    fields = dict(zip(names, values, strict=True))
    record = orjson.dumps(fields, _encode_json_value, orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)
    if b"null" in record and any(value != value for value in values):  # noqa: PLR0124  (NaN)
        return json.dumps(fields, default=str).encode()
    return record


def _encode_json_value(value: Any) -> Any:
    """What JSON has no form for: decimals as numbers, bytes as hexadecimal, the rest as text."""
    if isinstance(value, Decimal):
        return float(value)
    return f"0x{bytes(value).hex()}" if isinstance(value, bytes | bytearray | memoryview) else str(value)
