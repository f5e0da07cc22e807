"""The closed bars of an exchange as a feed, by ccxt.

Each symbol is a source, and the offset is the bar's begin in ms since 1970. A bar never changes
once it is closed, and an exchange gives old ones again, so reading can begin at any offset. The
last bar
that was read is asked for again each time: an exchange that gives later ones and not that one does
not reach back so far, and what is between is a lost range. An answer without bars counts as a range
without trades as soon as a later range has some.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import orjson
import polars as pl
from pydantic import Field, field_validator

from tasks.core.errors import FeedError
from tasks.core.records import RECORDS, Offsets, PolledRecords, build_empty_poll, encode_loss
from tasks.edges.feeds.base import SourceContext, SourceParams
from tasks.edges.settings import read_settings

_PAGE = 500  # bars that every exchange gives in one answer, or fewer
_VALUES = ("open", "high", "low", "close", "volume")


class ExchangeParams(SourceParams):
    """Closed bars of an exchange (`tidemill[exchanges]`).

    Keys and other options of ccxt are in TIDEMILL_FEED_EXCHANGE.
    exchange: its name in ccxt.
    symbols: `BTC/USD`. A record has series_id, event_time and the bar's values.
    since: where a new table begins, in UTC without a zone; None: with what the exchange gives.
    settle_s: after its end, before a bar counts as closed.
    every_s: between two requests for a symbol, at least; where bars are longer, the next request
    comes when the next bar has closed.
    """

    exchange: str
    symbols: Annotated[tuple[str, ...], Field(min_length=1)]
    timeframe: str
    since: datetime | None = None
    settle_s: Annotated[float, Field(ge=0)] = 5.0
    every_s: Annotated[float, Field(gt=0)] = 5.0

    @field_validator("since")
    @classmethod
    def _convert_since_to_utc(cls, since: datetime | None) -> datetime | None:
        return since.replace(tzinfo=UTC) if since is not None and since.tzinfo is None else since


class _Symbol:
    """How far one symbol is read.

    next: the offset; 0: none. begin: where bars are wanted from; 0: not known.
    request_begin: where the next request begins.
    """

    def __init__(self, symbol: str, source: str, offset: int, first: int) -> None:
        self.symbol, self.source, self.next = symbol, source, offset
        self.begin = self.request_begin = offset or first
        self.has_last = self.is_caught_up = False
        self.request_at = 0.0


class _FetchedBar(NamedTuple):
    """A record with its offset and the next offset."""

    offset: int
    value: bytes
    end: int


class ExchangeFeed:
    """The bars of *params*.

    options: of ccxt: keys, `urls`, proxies. report_down, report_lost: see SourceContext.
    Raises FeedError when ccxt or the exchange does not know what is asked for, or does not answer.
    """

    Params: ClassVar[type[SourceParams]] = ExchangeParams

    def __init__(
        self,
        params: ExchangeParams,
        options: Mapping[str, Any] | None = None,
        report_down: Callable[[str], Any] = lambda _: None,
        report_lost: Callable[[Mapping[str, Any]], Any] = lambda _: None,
    ) -> None:
        try:
            import ccxt
        except ImportError as error:
            raise FeedError(
                "`feed.source` is an exchange, and ccxt is not installed. Install `tidemill[exchanges]`."
            ) from error
        if params.exchange not in ccxt.exchanges:
            raise FeedError(
                f"ccxt knows no exchange {params.exchange!r}. Correct `feed.source.exchange`; ccxt.exchanges"
                " has their names."
            )
        self._ccxt, self._params = ccxt, params
        self._client = getattr(ccxt, params.exchange)(dict(options or {}))
        self._first_ms = 0 if params.since is None else int(params.since.timestamp() * 1000)
        self._settle_ms = int(params.settle_s * 1000)
        self._report_down, self._report_lost = report_down, report_lost
        self._read_offsets: Callable[[], Offsets] = dict
        self._all: list[_Symbol] = []
        self._is_down = self._is_closed = False
        self._check_markets()
        self._length_ms = int(self._client.parse_timeframe(params.timeframe) * 1000)

    @classmethod
    def connect(cls, params: ExchangeParams, context: SourceContext) -> Self:
        """See RecordSource."""
        return cls(params, read_settings().feed_exchange, context.report_down, context.report_lost)

    def _check_markets(self) -> None:
        """Ask for markets and clock. Raises FeedError for a symbol or length of no market."""
        params = self._params
        try:
            markets = self._client.load_markets()
            self._ahead_ms = (
                self._client.fetch_time() - self._client.milliseconds()
                if self._client.has.get("fetchTime")
                else 0
            )
        except self._ccxt.BaseError as error:
            raise FeedError(
                f"{params.exchange} does not answer: {type(error).__name__} {error}. Try later, or correct"
                " TIDEMILL_FEED_EXCHANGE."
            ) from error
        if unknown := sorted(set(params.symbols) - set(markets)):
            raise FeedError(
                f"{params.exchange} has no {', '.join(unknown)}. Correct `feed.source.symbols`; it has"
                f" {', '.join(sorted(markets)[:5])}, ..."
            )
        if params.timeframe not in (self._client.timeframes or {}):
            raise FeedError(
                f"{params.exchange} has no bars of {params.timeframe}; it has"
                f" {', '.join(self._client.timeframes or {})}. Correct `feed.source.timeframe`."
            )

    def open(self, read_offsets: Callable[[], Offsets]) -> None:
        """See RecordSource."""
        self._read_offsets = read_offsets
        self.rewind()

    def poll(self, n_records: int, timeout_s: float) -> PolledRecords:
        """See RecordSource; of one symbol. Raises FeedError when the exchange refuses."""
        one = min(self._all, key=lambda symbol: symbol.request_at)
        if self._is_closed or (wait_s := one.request_at - time.monotonic()) > timeout_s:
            time.sleep(timeout_s)
            return build_empty_poll()
        time.sleep(max(wait_s, 0.0))
        limit = min(n_records + 1, _PAGE)
        try:
            bars = self._client.fetch_ohlcv(
                one.symbol,
                self._params.timeframe,
                since=max(one.request_begin - self._length_ms, 0) or None,
                limit=limit,
            )
            self._is_down = False
        except self._ccxt.NetworkError as error:
            if not self._is_down:  # the error's text may hold the address
                self._report_down(f"{self._params.exchange}: {type(error).__name__}")
            self._is_down, one.request_at = True, time.monotonic() + self._params.every_s
            return build_empty_poll()
        except self._ccxt.BaseError as error:
            raise FeedError(
                f"{self._params.exchange} refuses bars of {one.symbol}: {type(error).__name__} {error}. Check"
                " `feed.source` and TIDEMILL_FEED_EXCHANGE."
            ) from error
        new = self._select_new(one, sorted(bars, key=lambda bar: bar[0]), limit, n_records)
        if not new:
            return build_empty_poll()
        return PolledRecords(_build_frame(one.source, new, self._length_ms), {one.source: one.next})

    def is_same(self) -> bool:
        """See RecordSource."""
        return True

    def rewind(self) -> None:
        """See RecordSource."""
        offsets, params = self._read_offsets(), self._params
        self._all = []
        for symbol in params.symbols:
            source = f"exchange:{params.exchange}/{symbol}/{params.timeframe}"
            self._all.append(_Symbol(symbol, source, offsets.get(source, 0), self._first_ms))

    def compute_lag(self) -> dict[str, int]:
        """Bars that have closed since the one polled last, by the clock; some may not exist."""
        closed_ms = self._compute_closed_ms()
        return {
            one.source: max((closed_ms - one.next) // self._length_ms, 0) if one.next else 0
            for one in self._all
        }

    def is_caught_up(self) -> bool:
        """Whether each symbol was read up to a request that brought no closed bar more."""
        return all(one.is_caught_up for one in self._all)

    def close(self) -> None:
        """See RecordSource."""
        self._is_closed = True
        self._client.session.close()

    def _compute_closed_ms(self) -> int:
        """Bars that begin before it are closed."""
        return int(self._client.milliseconds()) + self._ahead_ms - self._settle_ms - self._length_ms + 1

    def _select_new(self, one: _Symbol, bars: list[list[Any]], limit: int, n: int) -> list[_FetchedBar]:
        """The closed bars that were not read, *n* at most, after a lost range where there is one.

        Sets when the next request comes.
        """
        closed_ms = self._compute_closed_ms()
        one.has_last = one.has_last or any(bar[0] < one.next for bar in bars)
        new = [
            _FetchedBar(bar[0], _encode_value(one.symbol, bar), bar[0] + 1)
            for bar in bars
            if one.begin <= bar[0] < closed_ms
        ]
        if not new:
            # Up to there the answer would have held bars
            reached = one.request_begin + (limit - 2) * self._length_ms
            is_last = not one.begin or reached >= closed_ms
            one.is_caught_up = one.is_caught_up or is_last
            one.request_begin = one.begin if is_last else max(reached, one.request_begin + self._length_ms)
            next_bar_s = (one.next + self._length_ms - closed_ms) / 1000
            one.request_at = time.monotonic() + (max(self._params.every_s, next_bar_s) if is_last else 0.0)
            return []
        if one.next < (first := new[0].offset) and one.next and not one.has_last:
            lost = {"since": _format_time(one.next), "until": _format_time(first)}
            reason = (
                f"bars of {one.symbol} from {lost['since']} until {lost['until']}: {self._params.exchange}"
                " does not reach back so far"
            )
            new.insert(0, _FetchedBar(one.next, encode_loss(reason), first))
            self._report_lost({"source": one.source, **lost})
        one.next = one.begin = one.request_begin = new[:n][-1].end
        one.has_last = False
        return new[:n]


def _build_frame(source: str, bars: list[_FetchedBar], length_ms: int) -> pl.DataFrame:
    columns = {
        "_source": [source] * len(bars),
        "_offset": [bar.offset for bar in bars],
        "_timestamp": pl.Series([(bar.offset + length_ms) * 1000 for bar in bars], dtype=pl.Int64).cast(
            RECORDS["_timestamp"]
        ),
        "_key": [None] * len(bars),
        "_value": [bar.value for bar in bars],
        "_headers": [None] * len(bars),
    }
    return pl.DataFrame(columns, schema=dict(RECORDS))


def _encode_value(symbol: str, bar: list[Any]) -> bytes:
    return orjson.dumps(
        {"series_id": symbol, "event_time": _format_time(bar[0]), **dict(zip(_VALUES, bar[1:], strict=False))}
    )


def _format_time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")
