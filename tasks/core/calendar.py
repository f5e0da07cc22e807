"""Grids: which steps exist.

A lag is k steps back on the grid, never k rows; the same calendar dates the future steps. Three
kinds: `continuous` (every step of the given length), `weekdays` (Monday to Friday, daily; with
other open days as `weekdays:mon,tue,wed,thu,fri,sat`), `exchange:<code>` (the trading sessions of
an exchange, daily; codes are those of the library exchange_calendars, e.g. `exchange:XNYS`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import polars as pl

from tasks.core.about import About
from tasks.core.errors import CalendarError
from tasks.core.frames import UTC as UTC_DTYPE

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")  # polars counts from Monday = 1
_DAYS_IN = {"mo": 31, "q": 92, "y": 366, "w": 7, "d": 1}
_SECONDS_IN = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True)
class Calendar:
    """The steps of one dataset.

    *sessions* holds the steps of an exchange, ascending; None for the other kinds.
    """

    kind: str
    every: str
    publish_delay_s: float = 0.0
    sessions: pl.Series | None = None

    @cached_property
    def open_days(self) -> list[int]:
        """The weekdays that are steps, from Monday = 1; empty for another calendar."""
        return parse_open_days(self.kind)

    def grid(self, start: datetime, end: datetime) -> pl.Series:
        """All steps from *start* to *end*, both included, as `event_time`.

        For `continuous`, *start* fixes the phase.
        """
        if self.sessions is not None:
            self._check_reach(self.sessions, start, end)
            return self.sessions.filter((self.sessions >= start) & (self.sessions <= end)).alias("event_time")
        steps = pl.datetime_range(start, end, self.every, time_unit="us", eager=True).alias("event_time")
        steps = steps.cast(UTC_DTYPE) if steps.dtype != UTC_DTYPE else steps
        return steps.filter(steps.dt.weekday().is_in(self.open_days)) if self.open_days else steps

    def list_next_steps(self, event_time: datetime, n_steps: int) -> pl.Series:
        """The *n_steps* steps after the one that starts at *event_time*.

        Raises CalendarError past the calendar's end.
        """
        if self.sessions is not None:
            ahead = self.sessions.filter(self.sessions > event_time).head(n_steps).alias("event_time")
            if len(ahead) < n_steps:
                raise CalendarError(
                    f"Calendar {self.kind!r} ends {self.sessions[-1]:%F}, fewer than {n_steps} steps after"
                    f" {event_time:%F}. Rebuild the release to carry later sessions. Where exchange_calendars"
                    " knows none, a later version of it may; or choose `calendar: weekdays`."
                )
            return ahead
        slack = -(-7 * n_steps // len(self.open_days)) + 7 if self.open_days else n_steps
        end = pl.Series([event_time], dtype=UTC_DTYPE).dt.offset_by(format_step_multiple(self.every, slack))[
            0
        ]
        return self.grid(event_time, end).filter(self.grid(event_time, end) > event_time).head(n_steps)

    def is_on_grid(self, event_time: pl.Series) -> pl.Series:
        """Which of *event_time* (UTC, no nulls, any order) are steps.

        Where the calendar leaves the phase open, the commonest one counts.
        """
        if self.sessions is not None:
            return event_time.is_in(self.sessions.implode())
        if event_time.is_empty():
            return pl.Series([], dtype=pl.Boolean)
        _, unit = _parse_every(self.every)
        if unit in {"mo", "q", "y"}:
            return self._is_on_date_grid(event_time)
        length_us = int(parse_step_length(self.every) / timedelta(microseconds=1))
        phase = event_time.dt.epoch("us") % length_us
        on_grid = phase == phase.mode().min()
        return on_grid & event_time.dt.weekday().is_in(self.open_days) if self.open_days else on_grid

    def _is_on_date_grid(self, event_time: pl.Series) -> pl.Series:
        """Months differ in length: the grid starts at the first step with the usual day."""
        within = event_time.dt.strftime("%d %T%.f")
        of_phase = event_time.filter(within == within.mode().min()).sort()
        return event_time.is_in(self.grid(of_phase[0], event_time.sort()[-1]).implode())

    def nominal_known_at(self, column: str = "event_time") -> pl.Expr:
        """When the value of a step is known at the earliest: its end plus the publishing delay."""
        return pl.col(column).dt.offset_by(self.every) + timedelta(seconds=self.publish_delay_s)

    def get_cutoff(self, event_time: datetime) -> datetime:
        """The cutoff whose origin is the step at *event_time*: when that step's value is known."""
        known: datetime = pl.Series([event_time], dtype=UTC_DTYPE).dt.offset_by(self.every)[0]
        return known + timedelta(seconds=self.publish_delay_s)

    def _check_reach(self, sessions: pl.Series, start: datetime, end: datetime) -> None:
        first, last = sessions[0], sessions[-1]
        if start < first - timedelta(days=10) or end > last + timedelta(days=10):
            raise CalendarError(
                f"Calendar {self.kind!r} holds {first:%F} to {last:%F}; asked for {start:%F} to {end:%F}."
                " Rebuild the release or the features."
            )


def build_calendar(
    about: About, sessions: pl.Series | None = None, reach: tuple[datetime, datetime] | None = None
) -> Calendar:
    """The calendar that *about* names.

    sessions: steps of an exchange that travel with a release, so that serving needs no exchange
    library.
    reach: first and last time to look up otherwise; two years are added after the end, so that the
    future can be dated.
    """
    kind = about.calendar
    if kind == "continuous" or parse_open_days(kind):
        if kind != "continuous" and about.every != "1d":
            raise CalendarError(f"`about.calendar: {kind}` needs `every: 1d`, not {about.every!r}.")
        return Calendar(kind, about.every, about.publish_delay_s)
    if not kind.startswith("exchange:"):
        raise CalendarError(
            f"`about.calendar` is {kind!r}; use `continuous`, `weekdays` or `exchange:<code>`, for example"
            " `exchange:XNYS`, or `weekdays:mon,tue,sat` with the open days."
        )
    if sessions is None:
        if reach is None:
            raise CalendarError(
                f"Calendar {kind!r} was asked for without its sessions and without a time range."
            )
        sessions = list_exchange_sessions(
            kind.removeprefix("exchange:"), reach[0] - timedelta(days=14), reach[1] + timedelta(days=730)
        )
    return Calendar(kind, about.every, about.publish_delay_s, sessions.cast(UTC_DTYPE).alias("event_time"))


def parse_open_days(kind: str) -> list[int]:
    """The weekdays that calendar *kind* names, ascending from Monday = 1; empty for another kind.

    Raises CalendarError for a name that is no weekday.
    """
    if kind == "weekdays":
        return [1, 2, 3, 4, 5]
    if not kind.startswith("weekdays:"):
        return []
    names = [name.strip().lower() for name in kind.removeprefix("weekdays:").split(",")]
    if unknown := sorted(set(names) - set(WEEKDAYS)):
        raise CalendarError(
            f"`about.calendar` is {kind!r}, but {unknown} are no weekdays; name the open days among"
            f" {', '.join(WEEKDAYS)}."
        )
    return sorted({WEEKDAYS.index(name) + 1 for name in names})


def format_open_days(days: Iterable[int]) -> str:
    """The calendar whose open days are *days*, from Monday = 1."""
    ordered = sorted(days)
    names = ",".join(WEEKDAYS[day - 1] for day in ordered)
    return "weekdays" if ordered == [1, 2, 3, 4, 5] else f"weekdays:{names}"


def list_exchange_sessions(code: str, start: datetime, end: datetime) -> pl.Series:
    """Trading days of the exchange *code* from *start* to *end*, each at 00:00 UTC.

    They are those that the library knows: some exchanges have a first year, or holidays up to this
    or next year only. Raises CalendarError for an unknown code, or when none of the time is known.
    """
    # Pandas and 1 s of import: only datasets with an exchange pay it
    import exchange_calendars as xcals

    try:
        calendar = xcals.get_calendar(code, start=f"{start:%F}", end=f"{end:%F}")
    except xcals.errors.InvalidCalendarName as error:
        raise CalendarError(
            f"No exchange {code!r} in exchange_calendars. Known codes start"
            f" {sorted(xcals.get_calendar_names())[:8]}."
        ) from error
    except ValueError:  # before the first day that the library knows, or after the last
        bounds = type(xcals.get_calendar(code))
        first, last = _convert_bound(bounds.bound_min(), start), _convert_bound(bounds.bound_max(), end)
        if end < first or start > last:
            raise CalendarError(
                f"exchange_calendars knows the sessions of {code!r} from {first:%F} to {last:%F}, and none"
                f" from {start:%F} to {end:%F}. Set `about.calendar: weekdays`, or leave these rows out."
            ) from None
        calendar = xcals.get_calendar(code, start=f"{max(start, first):%F}", end=f"{min(end, last):%F}")
    days = [datetime(d.year, d.month, d.day, tzinfo=UTC) for d in calendar.sessions]
    return pl.Series("event_time", days, dtype=UTC_DTYPE)


def _convert_bound(bound: Any, default: datetime) -> datetime:
    """A bound of the library, a pandas time without a zone or None, as a moment in UTC."""
    return default if bound is None else datetime(bound.year, bound.month, bound.day, tzinfo=UTC)


def parse_step_length(every: str) -> timedelta:
    """Longest length of one step. Months, quarters and years count their longest form."""
    count, unit = _parse_every(every)
    return (
        timedelta(days=count * _DAYS_IN[unit])
        if unit in _DAYS_IN
        else timedelta(seconds=count * _SECONDS_IN[unit])
    )


def format_step_multiple(every: str, n: int) -> str:
    """*n* steps as one duration: 3 times `15m` is `45m`."""
    count, unit = _parse_every(every)
    return f"{count * n}{unit}"


def _parse_every(every: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+)(mo|ms|us|[yqwdhms])", every)
    if not match or int(match[1]) < 1:
        raise CalendarError(
            f"`about.every` is {every!r}; use a number and a unit, for example `1d`, `1h`, `15m`, `1mo`."
        )
    return int(match[1]), match[2]
