"""What is sent about alarms that come and go, and that nothing is lost or sent twice."""

from itertools import pairwise

import pytest
from alert_servers import Clock
from homes import at_home
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.alerts.params import AlertParams, AlertSilence
from tasks.alerts.sources import CollectedAlarms, build_alarm
from tasks.alerts.store import _N_IN_ORDER, GIVE_UP, PREFECT, open_store

PARAMS = AlertParams(cooldown_s=600)
SOURCE = "monitor"


def alarm(name="inputs_drift", dataset="small", subject="", severity=None, **changes):
    return build_alarm(name, SOURCE, f"{name} happens", dataset, subject, severity).model_copy(update=changes)


def tick(now, *alarms, params=PARAMS, sources=(SOURCE,), dataset="small", addresses=("a",)):
    """The titles of the messages of one tick."""
    with open_store() as store:
        collected = CollectedAlarms(list(alarms), set(sources), {})
        return [m.title for m in store.update(collected, dataset, params, addresses, now)]


OPENED = "Tidemill, small: warning: inputs_drift"
ENDED = "Tidemill, small: well again: inputs_drift"


def test_an_alarm_is_sent_when_it_opens_and_when_it_ends_and_not_between(root, clock):
    sent = [tick(clock.after(minutes=1), *alarms) for alarms in [(), (alarm(),), (alarm(),), (), ()]]
    assert sent == [[], [OPENED], [], [ENDED], []]


def test_alarms_of_a_dataset_and_a_tick_are_one_message_the_most_severe_first(root, clock):
    found = [alarm(), alarm("rows_stale", subject="freshness"), alarm("disk_full", dataset="")]
    with open_store() as store:
        machine, small = store.update(CollectedAlarms(found, {SOURCE}, {}), "small", PARAMS, ["a"], clock.now)
        ended = store.update(CollectedAlarms([], {SOURCE}, {}), "small", PARAMS, ["a"], clock.after(hours=2))
    assert machine.title == "Tidemill, machine: critical: disk_full"
    assert small.title == "Tidemill, small: critical: rows_stale, inputs_drift"
    assert small.body.splitlines() == [
        "CRITICAL rows_stale freshness: rows_stale happens",
        "    What to do: docs/runbooks/rows-stale.md",
        "WARNING inputs_drift: inputs_drift happens",
        "    What to do: docs/runbooks/inputs-drift.md",
    ]
    assert ended[1].body.splitlines()[0] == (
        "inputs_drift is well again since 2026-01-01 02:00:00Z; it was open since 2026-01-01 00:00:00Z."
    )
    assert [event.state for event in (*small.events, *ended[1].events)] == ["open"] * 2 + ["closed"] * 2


def test_an_alarm_that_flaps_is_sent_again_after_its_cool_down_if_it_is_open_then(root, clock):
    assert tick(clock.now, alarm()) == [OPENED]
    assert tick(clock.after(minutes=1)) == [ENDED]
    assert tick(clock.after(minutes=1), alarm()) == []
    assert tick(clock.after(minutes=1)) == []  # its opening was not sent, so neither is its end
    assert tick(clock.after(minutes=1), alarm()) == []
    assert tick(clock.after(minutes=7), alarm()) == [OPENED]
    with open_store() as store:
        text = store.start_attempt("a", clock.now).message.body
        assert text.startswith("WARNING inputs_drift: ")
        (found,) = store.list_open()
    assert (found.notified_at - found.opened_at).total_seconds() == 7 * 60


def test_a_worse_severity_does_not_wait_for_the_cool_down(root, clock):
    assert tick(clock.now, alarm()) == [OPENED]
    worse = alarm(severity="critical")
    assert tick(clock.after(minutes=1), worse) == [OPENED.replace("warning", "critical")]
    assert tick(clock.after(minutes=1), worse) == []
    assert tick(clock.after(minutes=1), alarm()) == []


def test_a_silence_holds_back_until_it_ends(root, clock):
    params = AlertParams(silences=(AlertSilence(alarm="inputs_drift", ends_at=clock.after(minutes=5)),))
    assert tick(clock.after(minutes=-2), alarm(), params=params) == []
    assert tick(clock.after(minutes=3), alarm(), params=params) == [OPENED]


def test_an_alarm_whose_source_cannot_tell_stays_open(root, clock):
    tick(clock.now, alarm())
    assert tick(clock.after(minutes=1), sources=()) == []
    assert tick(clock.after(minutes=1)) == [ENDED]


def test_alarms_of_another_dataset_end_without_a_claim_that_they_are_well(root, clock):
    tick(clock.now, alarm(), alarm("disk_full", dataset=""))
    assert tick(clock.after(minutes=1), alarm("disk_full", dataset=""), dataset="other") == []
    with open_store() as store:
        assert [found.name for found in store.list_open()] == ["disk_full"]


def test_what_only_happens_has_no_end(root, clock):
    tick(clock.now, alarm(has_end=False))
    assert tick(clock.after(minutes=1)) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=25))
def test_for_any_history_messages_alternate_and_keep_to_the_cool_down(tmp_path_factory, history):
    """The oracle: openings and ends alternate, and a cool-down is between two openings."""
    clock, log = Clock(), []
    with at_home(tmp_path_factory.mktemp("home")):
        for passed_s, is_open in history:
            now = clock.after(seconds=passed_s + 1)
            log += [(now, title) for title in tick(now, *([alarm()] if is_open else []))]
    titles = [title for _, title in log]
    assert titles == [OPENED, ENDED] * (len(titles) // 2) + [OPENED] * (len(titles) % 2)
    opened = [now for now, title in log if title == OPENED]
    assert all((b - a).total_seconds() >= 600 for a, b in pairwise(opened))


def deliver(clock, fault=None):
    with open_store() as store:
        delivery = store.start_attempt("a", clock.now)
        if delivery is not None:
            store.end_attempt(delivery, "a", fault, clock.now)
        return delivery


def test_a_failed_attempt_is_repeated_after_pauses_that_double_and_a_later_message_waits(root, clock):
    tick(clock.now, alarm())
    tick(clock.now)
    pauses = []
    for _ in range(7):
        first, began = deliver(clock, "down"), clock.now
        assert first.message.title == OPENED
        while True:
            clock.after(seconds=1)
            with open_store() as store:
                if (
                    store._connection.execute(
                        "SELECT min(due_at) FROM deliveries WHERE n_attempts"
                    ).fetchone()[0]
                    <= clock.now.timestamp()
                ):
                    break
            assert deliver(clock) is None
        pauses.append((clock.now - began).total_seconds())
    assert pauses == [5, 10, 20, 40, 80, 120, 120]
    assert [deliver(clock).message.title for _ in range(2)] == [OPENED, ENDED]
    assert deliver(clock) is None


def test_a_message_that_an_address_refuses_lets_later_ones_pass_and_is_dropped_in_the_end(root, clock):
    tick(clock.now, alarm())
    for _ in range(_N_IN_ORDER):
        deliver(clock, "refused")
        clock.after(minutes=3)
    tick(clock.now)
    assert deliver(clock).message.title == ENDED
    tick(clock.after(seconds=GIVE_UP.total_seconds()))
    assert deliver(clock) is None


def test_an_attempt_that_a_kill_cut_off_is_made_again_and_says_so(root, clock):
    tick(clock.now, alarm())
    with open_store() as store:
        assert not store.start_attempt("a", clock.now).is_repeat
    clock.after(seconds=6)
    assert deliver(clock, "down").is_repeat
    clock.after(seconds=11)
    assert not deliver(clock).is_repeat


def test_each_address_has_its_own_outbox_and_a_new_one_gets_what_comes_from_then_on(root, clock):
    tick(clock.now, alarm(), addresses=("a", PREFECT))
    tick(clock.after(minutes=1), addresses=("a", "b"))
    with open_store() as store:
        waiting = {address: state.n_waiting for address, state in store.read_address_states().items()}
    assert waiting == {"a": 2, "b": 1, PREFECT: 1}


def test_a_message_is_in_the_outbox_or_its_alarm_is_not_open(root, clock, monkeypatch):
    """One transaction: what fails in between leaves neither."""

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("tasks.alerts.store.AlertStore._add_message", fail)
    with pytest.raises(OSError, match="no space"):
        tick(clock.now, alarm())
    monkeypatch.undo()
    with open_store() as store:
        assert store.list_open() == []
    assert tick(clock.after(minutes=1), alarm()) == [OPENED]
