"""Grids: which steps exist, which come next, and that the end of the data does not change the
steps before it."""

from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.about import About, Target
from tasks.core.calendar import Calendar, build_calendar, list_exchange_sessions, parse_step_length
from tasks.core.errors import CalendarError
from tasks.core.frames import UTC as UTC_DTYPE

EVERY = ["1d", "1h", "15m", "5m", "30s", "1mo", "3mo", "1q", "1w", "1y", "2h"]


def day(year, month, date=1):
    return datetime(year, month, date, tzinfo=UTC)


def about_of(calendar, every="1d", **more):
    return About(
        description="t",
        every=every,
        calendar=calendar,
        target=Target(column="y", unit="u"),
        horizon_steps=2,
        **more,
    )


XNYS = build_calendar(about_of("exchange:XNYS"), reach=(day(1999, 1, 4), day(2018, 12, 31)))
CALENDARS = {
    "weekdays": Calendar("weekdays", "1d"),
    "exchange": XNYS,
    **{every: Calendar("continuous", every) for every in EVERY},
}


@pytest.mark.parametrize("index", ["sp500", "nasdaq"])
def test_sessions_of_new_york_are_exactly_the_days_of_the_embedded_bars(index):
    path = Path(find_spec("arch").origin).parent / f"data/{index}/{index}.csv.gz"
    bars = pl.read_csv(path)["Date"].str.to_datetime("%m/%d/%Y", time_unit="us").cast(UTC_DTYPE)
    assert XNYS.grid(bars[0], bars[-1]).to_list() == bars.to_list()


def test_days_off_of_the_exchange_are_no_steps():
    # attack, hurricane, mourning, holiday
    off = [day(2001, 9, 11), day(2012, 10, 29), day(2018, 12, 5), day(2018, 12, 25)]
    assert not XNYS.is_on_grid(pl.Series(off, dtype=UTC_DTYPE)).any()
    assert XNYS.is_on_grid(pl.Series([day(2018, 12, 24), day(2018, 12, 26)], dtype=UTC_DTYPE)).all()


def test_following_sessions_cross_the_year_end():
    assert XNYS.list_next_steps(day(2018, 12, 31), 3).to_list() == [
        day(2019, 1, 2),
        day(2019, 1, 3),
        day(2019, 1, 4),
    ]


def test_following_weekdays_cross_weekend_and_year_end():
    ahead = Calendar("weekdays", "1d").list_next_steps(day(2021, 12, 30), 3)
    assert ahead.to_list() == [day(2021, 12, 31), day(2022, 1, 3), day(2022, 1, 4)]


def test_following_months_cross_the_year_end_and_keep_their_day():
    assert Calendar("continuous", "1mo").list_next_steps(day(2023, 11), 3).to_list() == [
        day(2023, 12),
        day(2024, 1),
        day(2024, 2),
    ]
    assert Calendar("continuous", "1q").list_next_steps(day(2023, 10), 2).to_list() == [
        day(2024, 1),
        day(2024, 4),
    ]


def test_following_hours_cross_a_leap_day():
    ahead = Calendar("continuous", "1h").list_next_steps(datetime(2024, 2, 28, 23, tzinfo=UTC), 25)
    assert (ahead[0], ahead[-1]) == (day(2024, 2, 29), day(2024, 3, 1))


@settings(deadline=None)
@given(
    kind=st.sampled_from(sorted(CALENDARS)),
    start=st.integers(0, 5_000),
    n=st.integers(1, 60),
    k=st.integers(0, 60),
)
def test_following_is_the_grid_further_on(kind, start, n, k):
    """Steps ahead do not depend on how they are asked for: n + k at once, or n and then k."""
    calendar = CALENDARS[kind]
    origin = XNYS.sessions[start % 4_900 + 20] if kind == "exchange" else first_step(calendar, start)
    ahead = calendar.list_next_steps(origin, n + k)
    assert len(ahead) == n + k
    assert calendar.grid(origin, ahead[-1]).to_list() == [origin, *ahead]
    assert calendar.list_next_steps(ahead[n - 1], k).to_list() == ahead[n:].to_list()


def first_step(calendar, start):
    """A step at or after day *start* of 2000; the first of a month, where months are steps."""
    days = [day(2000, 1) + timedelta(days=start + i) for i in range(3)]
    months = calendar.every.endswith(("mo", "q", "y"))
    return (
        day(2000 + start % 40, 1 + start % 12)
        if months
        else next(d for d in days if calendar.kind != "weekdays" or d.weekday() < 5)
    )


@settings(deadline=None)
@given(
    kind=st.sampled_from(sorted(CALENDARS)),
    start=st.integers(0, 4_000),
    n=st.integers(1, 80),
    cut=st.integers(0, 80),
)
def test_truncated_grid_is_the_head_of_the_whole(kind, start, n, cut):
    calendar = CALENDARS[kind]
    origin = XNYS.sessions[start + 20] if kind == "exchange" else first_step(calendar, start)
    whole = calendar.grid(origin, calendar.list_next_steps(origin, n)[-1])
    cut = min(cut, n)
    assert calendar.grid(origin, whole[cut]).to_list() == whole.head(cut + 1).to_list()
    assert whole.is_sorted()
    assert whole.n_unique() == n + 1


@settings(deadline=None)
@given(kind=st.sampled_from(sorted(CALENDARS)), start=st.integers(0, 4_000), data=st.data())
def test_calendar_holds_its_own_steps_and_no_moment_between(kind, start, data):
    calendar = CALENDARS[kind]
    origin = XNYS.sessions[start + 20] if kind == "exchange" else first_step(calendar, start)
    steps = [origin, *calendar.list_next_steps(origin, 12)]
    kept = sorted(data.draw(st.sets(st.integers(0, 12), min_size=4)))
    off = steps[kept[0]] + timedelta(seconds=1)
    times = pl.Series([*(steps[i] for i in kept), off], dtype=UTC_DTYPE)
    assert calendar.is_on_grid(times).to_list() == [True] * len(kept) + [False]


def test_ends_of_months_are_a_grid():
    ends = pl.Series(
        [day(2023, 12, 31), day(2024, 1, 31), day(2024, 2, 29), day(2024, 3, 31), day(2024, 4, 30)],
        dtype=UTC_DTYPE,
    )
    calendar = Calendar("continuous", "1mo")
    assert calendar.is_on_grid(ends).all()
    assert calendar.grid(ends[0], ends[-1]).to_list() == ends.to_list()


@pytest.mark.parametrize("kind", ["weekdays", "exchange"])
def test_weekends_are_no_steps(kind):
    saturday = pl.Series([day(2018, 6, 2)], dtype=UTC_DTYPE)
    assert not CALENDARS[kind].is_on_grid(saturday).any()


@pytest.mark.parametrize("kind", sorted(CALENDARS))
def test_no_times_are_no_steps(kind):
    assert CALENDARS[kind].is_on_grid(pl.Series([], dtype=UTC_DTYPE)).to_list() == []


@pytest.mark.parametrize("every", EVERY)
def test_cutoff_of_a_step_is_when_its_value_is_known(every):
    calendar = Calendar("continuous", every, publish_delay_s=12.5)
    steps = calendar.grid(day(2024, 1), day(2026, 1)).head(20).to_frame()
    known = steps.select(calendar.nominal_known_at()).to_series().to_list()
    assert known == [calendar.get_cutoff(t) for t in steps["event_time"]]
    # A step ends where the next begins
    assert known[:-1] == [t + timedelta(seconds=12.5) for t in steps["event_time"][1:]]
    assert all(
        k - t <= parse_step_length(every) + timedelta(seconds=12.5)
        for k, t in zip(known, steps["event_time"], strict=True)
    )


def test_sessions_that_travel_need_no_exchange_library():
    carried = build_calendar(about_of("exchange:XNYS"), sessions=XNYS.sessions.head(100))
    assert carried.list_next_steps(day(1999, 1, 4), 1).to_list() == [day(1999, 1, 5)]


def test_following_past_the_last_session_says_where_the_calendar_ends():
    carried = build_calendar(about_of("exchange:XNYS"), sessions=XNYS.sessions.head(100))
    with pytest.raises(CalendarError, match=r"ends 1999-05-14, fewer than 5 steps after 1999-05-14"):
        carried.list_next_steps(carried.sessions[-1], 5)
    with pytest.raises(
        CalendarError, match=r"holds 1998-12-21 to 1999-05-\d\d; asked for 1999-01-04 to 2010"
    ):
        carried.grid(day(1999, 1, 4), day(2010, 1))


@pytest.mark.parametrize(
    ("calendar", "every", "message"),
    [
        ("lunar", "1d", "use `continuous`, `weekdays` or `exchange:<code>`"),
        ("weekdays", "1h", "needs `every: 1d`"),
        ("exchange:XNYX", "1d", "No exchange 'XNYX'"),
    ],
)
def test_calendar_that_does_not_exist_is_named(calendar, every, message):
    with pytest.raises(CalendarError, match=message):
        build_calendar(about_of(calendar, every), reach=(day(2020, 1), day(2020, 2)))


@pytest.mark.parametrize("every", ["d", "0h", "1 day", "-1h", "1M", ""])
def test_length_that_is_none_is_refused(every):
    with pytest.raises(CalendarError, match="use a number and a unit"):
        parse_step_length(every)


def test_an_exchange_without_range_or_sessions_is_refused():
    with pytest.raises(CalendarError, match="without its sessions and without a time range"):
        build_calendar(about_of("exchange:XNYS"))


def test_exchange_sessions_lie_within_what_was_asked():
    sessions = list_exchange_sessions("XNYS", day(2020, 1), day(2020, 2))
    assert (sessions[0], sessions[-1]) == (day(2020, 1, 2), day(2020, 1, 31))
    assert sessions.dtype == UTC_DTYPE


def calendar_names():
    import exchange_calendars as xcals

    return sorted(xcals.get_calendar_names(include_aliases=False))


BOUNDED = ["AIXK", "XBOM", "XHKG", "XSAU", "XSES", "XSHG", "XTKS"]
SLOW = {"XKRX", "XMOS", "XTAE"}  # some seconds each
PROMPT = [*BOUNDED, *(name for name in calendar_names() if name not in {*BOUNDED, *SLOW})]


@pytest.mark.parametrize("code", PROMPT[:40])
def test_an_exchange_reaches_from_its_first_to_its_last_session(code):
    assert_reaches(code)


@pytest.mark.chaos
@pytest.mark.parametrize("code", [*PROMPT[40:], *sorted(SLOW)])
def test_every_other_exchange_does_too(code):
    assert_reaches(code)


def assert_reaches(code):
    """By the library's own class: rows on every session, two years being asked for after them."""
    import exchange_calendars as xcals

    own = type(xcals.get_calendar(code))
    first, last = (
        f"{own.bound_min() or own.default_start()}"[:10],
        f"{own.bound_max() or own.default_end()}"[:10],
    )
    days = pl.Series([d.to_pydatetime() for d in xcals.get_calendar(code, start=first, end=last).sessions])
    sessions = days.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    made = build_calendar(about_of(f"exchange:{code}"), reach=(sessions[0], sessions[-1]))
    assert made.is_on_grid(sessions).all()
    assert made.grid(sessions[0], sessions[-1]).to_list() == sessions.to_list()
    assert made.list_next_steps(sessions[-3], 2).to_list() == sessions[-2:].to_list()
    if own.bound_max() is not None:
        with pytest.raises(
            CalendarError, match=rf"'exchange:{code}' ends {sessions[-1]:%F}, fewer than 1 steps"
        ):
            made.list_next_steps(sessions[-1], 1)


@pytest.mark.parametrize(
    ("code", "start", "end", "bounds"),
    [
        ("XTKS", day(1990, 1), day(1994, 1), "from 1997-01-01"),
        ("XSHG", day(2029, 3), day(2030, 1), "to 2026-12-31"),
    ],
)
def test_rows_of_a_time_that_the_library_does_not_know_are_refused_with_its_bound(code, start, end, bounds):
    with pytest.raises(CalendarError, match=f"knows the sessions of '{code}' .*{bounds}"):
        build_calendar(about_of(f"exchange:{code}"), reach=(start, end))


@pytest.mark.parametrize(("kind", "n"), [("weekdays:mon,tue,wed,thu,fri,sat", 6), ("weekdays:sun, wed", 2)])
def test_named_open_days_are_the_steps(kind, n):
    made = build_calendar(about_of(kind))
    grid = made.grid(day(2024, 1), day(2024, 12, 29))
    assert len(grid) == 52 * n
    assert made.is_on_grid(grid).all()
    assert grid.dt.weekday().n_unique() == n
    assert made.list_next_steps(grid[3], 40).to_list() == grid[4:44].to_list()
    with pytest.raises(CalendarError, match=r"\['son'\] are no weekdays"):
        build_calendar(about_of("weekdays:mon,son"))
