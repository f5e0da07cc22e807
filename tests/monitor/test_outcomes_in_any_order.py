"""Served forecasts and their outcomes: whatever the order in which they arrive, the same end.

An answer may be given again, asked for as of a time or from own rows; a value may come late, be
corrected or be taken back. The oracle is plain loops over what has arrived.
"""

import itertools
import random
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from homes import at_home
from hypothesis import example, given
from hypothesis import settings as tries
from hypothesis import strategies as st
from served_frames import write_served
from small_release import START, cutoff_at, small_about

from tasks.core.calendar import build_calendar
from tasks.core.frames import SERIES, SERVED
from tasks.edges.served import read_news
from tasks.monitor.outcome import compute_figures, join_outcomes
from tasks.monitor.rows import compute_span

DAY, N_STEPS, DATASETS = timedelta(days=1), 5, itertools.count()
SEEN = {"d": cutoff_at(2), "e": cutoff_at(4)}
ABOUT = small_about()
CALENDAR = build_calendar(ABOUT)

answers = st.fixed_dictionaries(
    {
        "series": st.sampled_from(["north", "south"]),
        "day": st.integers(0, 8),
        "digest": st.sampled_from(["d", "e"]),
        "y_hat": st.integers(1, 100),
        "kind": st.sampled_from(["news", "news", "news", "as_of", "own"]),
    }
)
vintages = st.fixed_dictionaries(
    {
        "series": st.sampled_from(["north", "south"]),
        "day": st.integers(0, 12),
        "late_days": st.integers(0, 4),
        "value": st.none() | st.integers(1, 100),
    }
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with at_home(tmp_path_factory.mktemp("order") / "home"):
        yield


def record(dataset, answer, number):
    """An answer with an id and a time of its own: *number* is when it was given."""
    steps = range(1, N_STEPS + 1)
    frame = pl.DataFrame(
        {
            "series_id": answer["series"],
            "cutoff": cutoff_at(answer["day"]),
            "step": steps,
            "event_time": [START + (answer["day"] + step) * DAY for step in steps],
            "model": "m",
            "y_hat": [answer["y_hat"] + step / 8 for step in steps],
            "q_0.1": answer["y_hat"] - 20.0,
            "q_0.9": answer["y_hat"] + 20.0,
            "prediction_id": f"id-{number}",
            "made_at": datetime(2026, 1, 1, tzinfo=UTC) + number * timedelta(seconds=1),
            "digest": answer["digest"],
        }
    )
    as_of = cutoff_at(answer["day"]) if answer["kind"] == "as_of" else None
    write_served(dataset, SERVED.conform(frame), own_history=answer["kind"] == "own", as_of=as_of)


def build_rows(arrived):
    """A first row of each series, so that there is a grid, and the vintages."""
    rows = [("north", START, START + DAY, 50.0), ("south", START, START + DAY, 50.0)]
    rows += [
        (v["series"], START + v["day"] * DAY, START + (v["day"] + 1 + v["late_days"]) * DAY, v["value"])
        for v in arrived
    ]
    frame = pl.DataFrame(rows, schema=["series_id", "event_time", "known_at", "load"], orient="row")
    frame = frame.with_columns(pl.col("load").cast(pl.Float64))
    return SERIES.conform(frame.unique(list(SERIES.key), keep="first", maintain_order=True))


def judge(dataset, rows):
    """(outcomes, figures) as the monitor has them."""
    news = read_news(dataset, min(SEEN.values()) - 9 * DAY)
    span = compute_span(rows.lazy(), ABOUT, CALENDAR)
    outcomes = join_outcomes(news, rows.lazy(), span, ABOUT, CALENDAR, SEEN)
    return outcomes, compute_figures(outcomes, [])[0]


def judge_by_hand(answers_by_number, rows):
    """The counts, the sum of the errors, and the id that each outcome is joined to."""
    newest, values = {}, {}
    for number, a in sorted(answers_by_number.items()):
        if a["kind"] == "news":
            newest[a["digest"], a["series"], a["day"]] = number, a
    for series, event_time, known_at, load in rows.sort("known_at").iter_rows():
        values.setdefault((series, event_time), []).append((known_at, load))
    counts = dict.fromkeys(("n_steps", "n_open", "n_seen", "n_known", "n_late", "n_corrected"), 0)
    errors, ids = [], {}
    for (digest, series, day), (number, a) in newest.items():
        for step in range(1, N_STEPS + 1):
            counts["n_steps"] += 1
            event_time = START + (day + step) * DAY
            ids[digest, series, day, step] = f"id-{number}"
            of_step = values.get((series, event_time), [(None, None)])
            if cutoff_at(day) < SEEN[digest]:
                counts["n_seen"] += 1
                continue
            if (y := of_step[-1][1]) is None:
                counts["n_open"] += 1
                continue
            first_at, first = next(pair for pair in of_step if pair[1] is not None)
            counts["n_known"] += 1
            counts["n_late"] += first_at > event_time + DAY
            counts["n_corrected"] += y != first
            errors.append(a["y_hat"] + step / 8 - y)
    return counts, errors, ids


@given(
    asked=st.lists(answers, min_size=1, max_size=8),
    values=st.lists(vintages, max_size=25, unique_by=lambda v: (v["series"], v["day"], v["late_days"])),
    seed=st.integers(0, 9),
)
@example(
    asked=[{"series": "north", "day": 5, "digest": "d", "y_hat": 9, "kind": "news"}],
    values=[
        {"series": "north", "day": 7, "late_days": 0, "value": None},  # its covariates came in time
        {"series": "north", "day": 7, "late_days": 2, "value": 3},
    ],
    seed=0,
)
@tries(max_examples=20, deadline=None)
def test_each_step_counts_once_with_its_newest_value_in_whatever_order_all_arrives(home, asked, values, seed):
    events = [*enumerate(asked), *((None, v) for v in values)]
    ends = []
    for order in (events, random.Random(seed).sample(events, len(events))):
        dataset, given_answers, arrived = f"order{next(DATASETS)}", {}, []
        for i, (number, event) in enumerate(order):
            if number is None:
                arrived.append(event)
            else:
                given_answers[number] = event
                record(dataset, event, number)
            if i % 9 == 0 or i == len(order) - 1:
                rows = build_rows(arrived)
                outcomes, figures = judge(dataset, rows)
                counts, errors, ids = judge_by_hand(given_answers, rows)
                assert {name: figures[name] for name in counts} == counts
                assert figures["bias"] == (pytest.approx(sum(errors) / len(errors)) if errors else None)
                assert outcomes.height == len(ids)
        found = {
            (row["digest"], row["series_id"], (row["cutoff"] - START).days - 1, row["step"]): row[
                "prediction_id"
            ]
            for row in outcomes.iter_rows(named=True)
        }
        assert found == ids
        ends.append((outcomes, figures))
    assert ends[0][0].equals(ends[1][0])
    assert ends[0][1] == ends[1][1]
