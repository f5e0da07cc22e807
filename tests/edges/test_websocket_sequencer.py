"""Laws of the order of a socket's records, without a socket, a REST or a clock."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.records import decode_loss
from tasks.edges.feeds.websocket.messages import NumberedRecord, parse_numbered, parse_values
from tasks.edges.feeds.websocket.sequencer import (
    MAX_ANSWERS,
    REQUEST_PAUSE_S,
    Gap,
    NumberedSequencer,
    ReceiptSequencer,
)

START = datetime(2024, 1, 1, tzinfo=UTC)
N = 25
REORDER_S, WAIT_S = 2.0, 8.0
# What happens to a sequencer: numbers come, time passes, the connection is made again, records are
# taken, it is rewound to a stored offset, REST answers or not
STEPS = st.lists(
    st.one_of(
        st.lists(st.integers(0, N - 1), min_size=1, max_size=4).map(lambda numbers: ("message", numbers)),
        st.floats(0.1, 5.0).map(lambda seconds: ("wait", seconds)),
        st.just(("connect", None)),
        st.integers(1, 5).map(lambda n: ("take", n)),
        st.just(("rewind", None)),
        st.booleans().map(lambda answers: ("rest", answers)),
    ),
    max_size=30,
)


def value_of(number):
    return f'{{"n":{number}}}'.encode()


def message_of(numbers):
    return json.dumps([{"n": number} for number in numbers]).encode()


class Driver:
    """Runs steps on a sequencer, and keeps what was taken since the last rewind."""

    def __init__(self, sequencer, rest=()):
        self.sequencer, self.rest, self.answers = sequencer, set(rest), True
        self.now, self.taken, self.asked = 1.0, [], []
        sequencer.rewind(None, self.at)

    @property
    def at(self):
        return START + timedelta(seconds=self.now)

    def step(self, kind, given):
        if kind == "message":
            self.sequencer.add_message(message_of(given), self.at, self.now)
        elif kind == "wait":
            self.now += given
        elif kind == "connect":
            self.sequencer.begin_connection(self.at)
        elif kind == "rest":
            self.answers = given
        elif kind == "rewind":  # all but the newest two were committed
            del self.taken[-2:]
            self.sequencer.rewind(self.taken[-1].end if self.taken else None, self.at)
        else:
            self.close_gaps(given)
            self.taken += self.sequencer.take(given)

    def close_gaps(self, n):
        while (gap := self.sequencer.advance(n, self.now)) is not None:
            self.asked.append((self.now, gap))
            numbers = range(gap.first, gap.last + 1)
            found = [NumberedRecord(k, value_of(k)) for k in numbers if k in self.rest]
            if not self.sequencer.close_gap(gap, found if self.answers else None, self.at, self.now):
                return

    def finish(self, last):
        """The number *last* comes, and time enough passes for every gap."""
        self.step("message", [last])
        for _ in range(100):
            self.step("wait", WAIT_S + REORDER_S)
            self.step("take", 1000)


def numbered(*, has_backfill=False):
    return NumberedSequencer(
        None, "n", 0, reorder_s=REORDER_S, backfill_wait_s=WAIT_S, has_backfill=has_backfill
    )


def numbers_of(record):
    """(numbers that a record has, whether they are lost)."""
    is_lost = decode_loss(record.value) is not None
    return list(range(record.offset, record.end)), is_lost


@given(STEPS, st.sets(st.integers(0, N)), st.booleans())
def test_each_number_is_there_once_or_in_a_lost_range_in_order(steps, rest, has_backfill):
    driver = Driver(numbered(has_backfill=has_backfill), rest)
    for step in steps:
        driver.step(*step)
        assert driver.sequencer.n_waiting_bytes >= 0
    driver.finish(N)
    numbers = [number for record in driver.taken for number in numbers_of(record)[0]]
    assert numbers == list(range(N + 1))
    for record in driver.taken:
        _, is_lost = numbers_of(record)
        assert is_lost or (record.value, record.end) == (value_of(record.offset), record.offset + 1)
    assert (driver.sequencer.n_waiting_bytes, driver.sequencer.compute_lag()) == (0, 0)
    assert driver.sequencer.is_caught_up()


@given(STEPS)
def test_where_rest_has_everything_and_answers_nothing_is_lost(steps):
    driver = Driver(numbered(has_backfill=True), range(N + 1))
    for kind, given_ in steps:
        driver.step(kind, True if kind == "rest" else given_)
    driver.finish(N)
    assert [record.offset for record in driver.taken] == list(range(N + 1))
    assert driver.sequencer.losses == []


@given(st.lists(st.integers(0, N), max_size=40))
def test_what_is_in_reach_is_put_in_order_without_asking_and_repeats_are_dropped(numbers):
    driver = Driver(numbered())
    for number in [*numbers, *range(N + 1)]:
        driver.step("message", [number])
    driver.step("take", 1000)
    assert [record.offset for record in driver.taken] == list(range(N + 1))
    assert driver.asked == []


@given(st.floats(0, 5), st.integers(1, 10))
def test_a_gap_is_asked_for_after_reorder_s_and_again_until_it_was_answered_often_enough(wait_s, beyond):
    driver = Driver(numbered(has_backfill=True))
    driver.step("message", [beyond])
    came = driver.now
    driver.step("wait", wait_s)
    driver.step("take", 10)
    assert bool(driver.asked) == (wait_s >= REORDER_S)
    for _ in range(200):
        driver.step("wait", 0.1)
        driver.step("take", 10)
    times = [now for now, _ in driver.asked]
    assert times[0] >= came + REORDER_S
    assert all(later - earlier >= REQUEST_PAUSE_S - 1e-9 for earlier, later in pairwise(times))
    assert [gap for _, gap in driver.asked] == [Gap(0, beyond - 1)] * MAX_ANSWERS
    assert driver.sequencer.losses == [{"first": 0, "last": beyond - 1, "n": beyond}]


def test_a_rest_that_does_not_answer_is_waited_for_and_given_up_at_last():
    driver = Driver(numbered(has_backfill=True), range(10))
    driver.step("rest", False)
    driver.step("message", [5])
    for _ in range(3):
        driver.step("wait", WAIT_S / 2)
        driver.step("take", 10)
        assert driver.sequencer.losses == [] or driver.now > WAIT_S
    assert [numbers_of(record)[1] for record in driver.taken] == [True, False]


def test_a_new_table_begins_with_the_least_number_that_is_seen_first():
    sequencer = NumberedSequencer(None, "n", None, reorder_s=REORDER_S)
    driver = Driver(sequencer)
    driver.step("message", [7, 6, 8])
    driver.step("take", 10)
    assert driver.taken == []  # an earlier one may be on its way
    driver.step("wait", REORDER_S)
    driver.step("take", 10)
    assert [record.offset for record in driver.taken] == [6, 7, 8]
    assert sequencer.losses == []


def test_numbers_that_begin_again_are_found_in_their_connection():
    driver = Driver(numbered())
    driver.finish(10)
    driver.step("connect", None)
    assert driver.sequencer.find_restart() is None
    driver.step("message", [3])
    assert driver.sequencer.find_restart() == (3, 11)
    driver.step("message", [10])
    assert driver.sequencer.find_restart() is None


@given(st.lists(st.sampled_from(["message", "connect", "wait", "take", "rewind"]), max_size=30))
def test_without_numbers_offsets_rise_and_the_time_without_a_connection_is_lost(kinds):
    driver = Driver(ReceiptSequencer(None))
    given_ = {"message": [1], "wait": 0.5, "take": 3}
    for kind in kinds:
        driver.step(kind, given_.get(kind))
    driver.step("take", 1000)
    assert all(a.end <= b.offset for a, b in pairwise(driver.taken))
    assert all(record.offset < record.end for record in driver.taken)
    for loss in driver.sequencer.losses:  # records of one moment are a microsecond apart
        since, until = (datetime.fromisoformat(loss[key]) for key in ("since", "until"))
        assert since <= until + timedelta(microseconds=len(kinds))
    assert not driver.taken or driver.sequencer.compute_lag() == 0


def test_without_numbers_two_records_of_one_moment_have_two_offsets():
    driver = Driver(ReceiptSequencer(None))
    for _ in range(3):
        driver.step("message", [1])
    driver.step("take", 10)
    assert len({record.offset for record in driver.taken}) == 3
    assert driver.sequencer.is_caught_up()


def test_a_cleared_sequencer_gives_nothing_more():
    for sequencer in (numbered(), ReceiptSequencer(None)):
        driver = Driver(sequencer)
        driver.step("message", [0, 1, 5])
        sequencer.clear()
        driver.step("wait", 100.0)
        driver.step("take", 10)
        assert driver.taken == []


@pytest.mark.parametrize(
    ("message", "field", "numbers"),
    [
        (b'{"n": 3}', None, [3]),
        (b'[{"n": 3}, {"n": "4"}, {"n": true}, {"n": -1}, {"n": 1.5}, {"m": 1}, 7]', None, [3, 4]),
        (b'{"data": {"n": 3}}', "data", [3]),
        (b'{"data": [{"n": 3}, {"n": 4}]}', "data", [3, 4]),
        (b'{"event": "subscribed"}', "data", []),
        (b'{"n": 9223372036854775807}', None, []),
    ],
)
def test_records_have_a_number_that_fits_into_an_offset(message, field, numbers):
    assert [record.number for record in parse_numbered(message, field, "n")] == numbers


def test_records_without_numbers_are_taken_from_their_field_or_whole():
    assert parse_values(b"not json", None) == [b"not json"]
    assert parse_values(b"not json", "data") == []
    assert parse_values(b'{"data": [{"a": 1}, {"b": 2}]}', "data") == [b'{"a":1}', b'{"b":2}']
