"""The closed bars of an exchange as a feed, asked for by ccxt: one source for each symbol, the
offset is the bar's begin in ms since 1970.

A bar never changes once it is closed, and an exchange gives old ones again, so reading can begin at
any mark. The last bar that was read is asked for again each time: an exchange that gives later ones
and not that one does not reach back so far, and what lies between is a lost range. An answer
without bars is taken for a range without trades as soon as a later range has some.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC as ZONE
from datetime import datetime
from typing import Any, NamedTuple

import orjson
import polars as pl

from tasks.core.errors import FeedError
from tasks.core.records import RECORDS, Marks, PolledRecords, encode_loss

_PAGE = 500  # bars that every exchange gives at once, or fewer
_VALUES = ("open", "high", "low", "close", "volume")


class _Symbol:
    """How far one symbol is read. next: the mark; 0: none. begins: where bars are wanted from;
    0: not known. asks_from: where the next question begins.
    """

    def __init__(self, symbol: str, source: str, mark: int, first: int) -> None:
        self.symbol, self.source, self.next = symbol, source, mark
        self.begins = self.asks_from = mark or first
        self.saw_last = self.is_caught_up = False
        self.ask_at = 0.0


class _FetchedBar(NamedTuple):
    """A record with its place and the place after it."""

    offset: int
    value: bytes
    end: int


class ExchangeFeed:
    """Bars of *timeframe* of *symbols* (`BTC/USD`) at the exchange that ccxt calls *exchange*; a
    record has series_id, event_time and the bar's values.

    since: where a new table begins; None: with what the exchange gives. settle_s: after its end
    before a bar counts as closed. every_s: between two questions about a symbol at least; where
    bars are longer, it is asked when the next one has closed. options: of ccxt: keys, `urls`,
    proxies.
    told, lost: see WebsocketFeed. Raises FeedError when ccxt or the exchange does not know what is
    asked for, or nobody answers.
    """

    def __init__(
        self,
        exchange: str,
        symbols: Sequence[str],
        timeframe: str,
        since: datetime | None = None,
        settle_s: float = 5.0,
        every_s: float = 5.0,
        options: Mapping[str, Any] | None = None,
        told: Callable[[str], Any] = lambda _: None,
        lost: Callable[[dict[str, Any]], Any] = lambda _: None,
    ) -> None:
        try:
            import ccxt
        except ImportError as error:
            raise FeedError(
                "`feed.source` is an exchange, and ccxt is not installed. Install `tidemill[exchanges]`."
            ) from error
        if exchange not in ccxt.exchanges:
            raise FeedError(
                f"ccxt knows no exchange {exchange!r}. Correct `feed.source.exchange`; ccxt.exchanges has"
                " their names."
            )
        self._ccxt, self._exchange, self._symbols, self._timeframe = ccxt, exchange, list(symbols), timeframe
        self._client = getattr(ccxt, exchange)(dict(options or {}))
        self._first_ms = 0 if since is None else int(since.timestamp() * 1000)
        self._settle_ms, self._every_s, self._told, self._lost = int(settle_s * 1000), every_s, told, lost
        self._marks: Callable[[], Marks] = dict
        self._all: list[_Symbol] = []
        self._is_away = self._is_closed = False
        try:
            known = self._client.load_markets()
            self._ahead_ms = (
                self._client.fetch_time() - self._client.milliseconds()
                if self._client.has.get("fetchTime")
                else 0
            )
        except ccxt.BaseError as error:
            raise FeedError(
                f"{exchange} does not answer: {type(error).__name__} {error}. Try later, or correct"
                " TIDEMILL_FEED_EXCHANGE."
            ) from error
        if unknown := sorted(set(symbols) - set(known)):
            raise FeedError(
                f"{exchange} has no {', '.join(unknown)}. Correct `feed.source.symbols`; it has"
                f" {', '.join(sorted(known)[:5])}, ..."
            )
        if timeframe not in (self._client.timeframes or {}):
            raise FeedError(
                f"{exchange} has no bars of {timeframe}; it has {', '.join(self._client.timeframes or {})}."
                " Correct `feed.source.timeframe`."
            )
        self._length_ms = int(self._client.parse_timeframe(timeframe) * 1000)

    def open(self, marks: Callable[[], Marks]) -> None:
        """See Feed."""
        self._marks = marks
        self.rewind()

    def poll(self, n_records: int, within_s: float) -> PolledRecords:
        """See Feed; of one symbol.

        While the exchange does not answer there are no records. Raises FeedError when it refuses.
        """
        nothing = PolledRecords(pl.DataFrame(schema=dict(RECORDS)), {})
        one = min(self._all, key=lambda symbol: symbol.ask_at)
        if self._is_closed or (wait_s := one.ask_at - time.monotonic()) > within_s:
            time.sleep(within_s)
            return nothing
        time.sleep(max(wait_s, 0.0))
        limit = min(n_records + 1, _PAGE)
        try:
            bars = self._client.fetch_ohlcv(
                one.symbol,
                self._timeframe,
                since=max(one.asks_from - self._length_ms, 0) or None,
                limit=limit,
            )
            self._is_away = False
        except self._ccxt.NetworkError as error:
            if not self._is_away:
                self._told(f"{self._exchange}: {type(error).__name__}")  # its text may hold the address
            self._is_away, one.ask_at = True, time.monotonic() + self._every_s
            return nothing
        except self._ccxt.BaseError as error:
            raise FeedError(
                f"{self._exchange} refuses bars of {one.symbol}: {type(error).__name__} {error}. Look at"
                " `feed.source` and TIDEMILL_FEED_EXCHANGE."
            ) from error
        found = self._select_new(one, sorted(bars, key=lambda bar: bar[0]), limit, n_records)
        return (
            PolledRecords(_build_frame(one.source, found, self._length_ms), {one.source: one.next})
            if found
            else nothing
        )

    def is_same(self) -> bool:
        """See Feed."""
        return True

    def rewind(self) -> None:
        """See Feed."""
        marks, names = (
            self._marks(),
            {symbol: f"exchange:{self._exchange}/{symbol}/{self._timeframe}" for symbol in self._symbols},
        )
        self._all = [
            _Symbol(symbol, name, marks.get(name, 0), self._first_ms) for symbol, name in names.items()
        ]

    def lag(self) -> dict[str, int]:
        """Bars that have closed since the one polled last, by the clock; some may not exist."""
        until = self._compute_closed_ms()
        return {
            one.source: max((until - one.next) // self._length_ms, 0) if one.next else 0 for one in self._all
        }

    def is_caught_up(self) -> bool:
        """Whether each symbol was read up to a question that brought no closed bar more."""
        return all(one.is_caught_up for one in self._all)

    def close(self) -> None:
        """See Feed."""
        self._is_closed = True
        self._client.session.close()

    def _compute_closed_ms(self) -> int:
        """Bars that begin before it are closed."""
        return int(self._client.milliseconds()) + self._ahead_ms - self._settle_ms - self._length_ms + 1

    def _select_new(self, one: _Symbol, bars: list[list[Any]], limit: int, n: int) -> list[_FetchedBar]:
        """The closed bars that were not read, *n* at most, a lost range before them where there
        is one; says when to ask next.
        """
        until = self._compute_closed_ms()
        one.saw_last = one.saw_last or any(bar[0] < one.next for bar in bars)
        new = [
            _FetchedBar(bar[0], _encode_value(one.symbol, bar), bar[0] + 1)
            for bar in bars
            if one.begins <= bar[0] < until
        ]
        if not new:
            # Up to there the answer would have held bars
            beyond = one.asks_from + (limit - 2) * self._length_ms
            is_last = not one.begins or beyond >= until
            one.is_caught_up = one.is_caught_up or is_last
            one.asks_from = one.begins if is_last else max(beyond, one.asks_from + self._length_ms)
            one.ask_at = time.monotonic() + (
                max(self._every_s, (one.next + self._length_ms - until) / 1000) if is_last else 0.0
            )
            return []
        if one.next < (first := new[0].offset) and one.next and not one.saw_last:
            lost = {"since": _format_time(one.next), "until": _format_time(first)}
            said = (
                f"bars of {one.symbol} from {lost['since']} until {lost['until']}: {self._exchange} does not"
                " reach back so far"
            )
            new.insert(0, _FetchedBar(one.next, encode_loss(said), first))
            self._lost({"source": one.source, **lost})
        one.next = one.begins = one.asks_from = new[:n][-1].end
        one.saw_last = False
        return new[:n]


def _build_frame(source: str, found: list[_FetchedBar], length_ms: int) -> pl.DataFrame:
    columns = {
        "_source": [source] * len(found),
        "_offset": [one.offset for one in found],
        "_timestamp": pl.Series([(one.offset + length_ms) * 1000 for one in found], dtype=pl.Int64).cast(
            RECORDS["_timestamp"]
        ),
        "_key": [None] * len(found),
        "_value": [one.value for one in found],
        "_headers": [None] * len(found),
    }
    return pl.DataFrame(columns, schema=dict(RECORDS))


def _encode_value(symbol: str, bar: list[Any]) -> bytes:
    return orjson.dumps(
        {"series_id": symbol, "event_time": _format_time(bar[0]), **dict(zip(_VALUES, bar[1:], strict=False))}
    )


def _format_time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, ZONE).isoformat().replace("+00:00", "Z")
