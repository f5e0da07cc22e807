"""Champion and challenger in one running service: who answers, whatever fails, after a kill."""

import signal
import threading
import time
from datetime import timedelta

import httpx
import pytest
from reports import AS_OF, gate_decision
from rollout_runs import BEGUN, build_rollout_releases, select_known
from servers import DATASET, JSON, at, crown, digest_of, publish, serving
from slot_runs import read_slot, start, swap_slots, wait_until
from small_release import START, build_small_release, small_about

from tasks.core.rollout import RolloutParams, is_assigned
from tasks.edges.release_files import get_release_folder
from tasks.edges.rollouts import (
    apply_rollout_command,
    get_errors_path,
    get_rollout_path,
    read_challenger_errors,
    read_rollout,
    read_rollout_moves,
    start_rollout,
    write_move,
)
from tasks.rollout.stage import judge_rollout

STEPS = [k / 200 for k in range(201)]  # one lies between the two series


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """`first` is champion."""
    folder = build_rollout_releases(tmp_path_factory.mktemp("rolled_out"))
    (folder / "plain").rename(folder / "first")
    (folder / "good").rename(folder / "second")
    return folder


@pytest.fixture(scope="module")
def running(releases, tmp_path_factory):
    home = tmp_path_factory.mktemp("slots")
    crown(home, releases / "first")
    with serving(home) as server:
        yield server


@pytest.fixture
def service(running):
    """Without a rollout so far."""
    with at(running.home):
        for path in (get_rollout_path(DATASET), get_errors_path(DATASET)):
            path.unlink(missing_ok=True)
        wait_until(lambda: read_slot(running) is None)
        yield running


def find_weight(digest, n_series):
    """A step at which the challenger answers for that many of the two series."""
    return next(
        weight for weight in STEPS
        if sum(is_assigned(name, digest, weight) for name in ("north", "south")) == n_series
    )  # fmt: skip


def ask_digests(server):
    replies = {name: server.predict(series_id=name) for name in ("north", "south")}
    assert {reply.status_code for reply in replies.values()} == {200}
    return {name: reply.json()["model"]["digest"] for name, reply in replies.items()}


def test_each_series_keeps_its_release_and_more_follow_as_the_weight_rises(service, releases):
    first, second = (digest_of(releases / name) for name in ("first", "second"))
    rollout = start(service, releases / "second", find_weight(second, 1), find_weight(second, 2), 1)
    some = ask_digests(service)
    assert sorted(some.values()) == sorted([first, second])
    assert [ask_digests(service) for _ in range(3)] == [some] * 3
    both = service.predict(series_id=["south", "north"]).json()
    assert both["model"]["digest"] == some["north"]
    slot = read_slot(service)
    assert (slot["weight"], slot["state"], slot["n_errors"]) == (rollout.weight, "running", 0)
    write_move(rollout, "judge", "better", step=1)
    assert set(ask_digests(service).values()) == {second}
    crown(service.home, releases / "second")
    service.wait_for(lambda ready: ready["digest"] == second)
    assert set(ask_digests(service).values()) == {second}
    crown(service.home, releases / "first")
    service.wait_for(lambda ready: ready["digest"] == first)


def test_an_answer_of_the_challenger_is_recorded_with_its_release_and_can_be_recomputed(service, releases):
    second = digest_of(releases / "second")
    start(service, releases / "second", find_weight(second, 2), 1)
    made = service.predict(series_id="north").json()
    recorded = service.client.get(f"/api/v1/predictions/{made['prediction_id']}").json()
    assert recorded["model"] == {"digest": second, "version": second[:12]}
    assert recorded["recomputed"]["state"] == "same"


def test_what_the_challenger_fails_the_champion_answers_and_it_is_noted(service, tmp_path):
    """It forecasts 3 steps where the champion has 5; after its last error it answers no more."""
    about = small_about(horizon_steps=3)
    build_small_release(tmp_path / "short", dataset=DATASET, about=about, model="short")
    digest = digest_of(tmp_path / "short")
    rollout = start(service, tmp_path / "short", find_weight(digest, 2), 1, max_errors=1)
    assert len(service.predict(series_id="north").json()["series"][0]["steps"]) == 3
    for _ in range(2):
        reply = service.predict(series_id="north", horizon_steps=5)
        assert (reply.status_code, len(reply.json()["series"][0]["steps"])) == (200, 5)
    assert service.predict(series_id="north", horizon_steps=6).status_code == 422  # for the champion, too
    assert len(service.predict(series_id="north").json()["series"][0]["steps"]) == 5
    wait_until(lambda: len(read_challenger_errors(rollout)) == 2)
    assert "horizon_steps: 5 steps" in read_challenger_errors(rollout)[0]


def test_a_challenger_that_does_not_load_leaves_the_champion(service, releases, tmp_path):
    build_small_release(tmp_path / "other", dataset=DATASET, weights={"ridge": 1.0})
    params = RolloutParams(steps_frac=(0.99, 1))
    rollout = start_rollout(DATASET, tmp_path / "other", gate_decision(as_of=AS_OF), params)
    member = next((get_release_folder(rollout.challenger) / "members").iterdir())
    member.write_bytes(b"!")
    wait_until(lambda: (read_slot(service) or {}).get("fault"))
    assert set(ask_digests(service).values()) == {digest_of(releases / "first")}
    assert member.name in read_challenger_errors(rollout)[0]
    ready = service.client.get("/api/v1/health/ready").json()
    assert (ready["ready"], member.name in ready["faults"][0]) == (True, True)


def test_a_biased_challenger_that_fails_no_request_goes_back_by_itself(service, releases):
    first, biased = (digest_of(releases / name) for name in ("first", "biased"))
    decision = gate_decision(as_of=BEGUN)
    params = RolloutParams(steps_frac=(find_weight(biased, 2), 1))
    start_rollout(DATASET, releases / "biased", decision, params)
    wait_until(lambda: set(ask_digests(service).values()) == {biased})
    for day in (510, 520, 545):
        publish(service.home, select_known(day))
        service.wait_for(
            lambda ready, day=day: ready["as_of"].startswith(f"{START + timedelta(days=day):%F}")
        )
        slot, answered = read_slot(service), set(ask_digests(service).values())
        assert (slot["n_errors"], slot["fault"], answered) == (0, None, {biased})
        judgement = judge_rollout(report=[].append)
        assert judgement.action == ("wait" if day < 545 else "back")
    assert "its forecasts are worse" in read_rollout(DATASET).reason
    assert set(ask_digests(service).values()) == {first}
    metrics = service.client.get("/api/v1/metrics").text
    assert 'route="/api/v1/predict",status="5' not in metrics


def test_a_shadow_gets_each_request_and_no_reply_is_its_own(service, tmp_path):
    about = small_about(horizon_steps=3)
    build_small_release(tmp_path / "short", dataset=DATASET, about=about, model="short")
    rollout = start(service, tmp_path / "short", 0, 0.5, 1)
    for _ in range(5):
        assert len(service.predict(series_id="north").json()["series"][0]["steps"]) == 5
    wait_until(lambda: read_slot(service)["n_mirrored"] == 5)
    assert service.predict(series_id="north", horizon_steps=5).status_code == 200
    wait_until(lambda: len(read_challenger_errors(rollout)) == 1)
    assert read_slot(service)["n_errors"] == 1


def ask_kept(address):
    with httpx.Client(base_url=address, timeout=60, headers=JSON) as client:
        while True:
            yield client.post("/api/v1/predict", json={"series_id": "north"})


def ask_new(address):
    while True:
        yield httpx.post(f"{address}/api/v1/predict", json={"series_id": ["north", "south"]}, timeout=60)


def ask_slowly(address):
    def send():
        for part in (b'{"series_id"', b': "so', b'uth"}'):
            yield part
            time.sleep(0.05)

    while True:
        yield httpx.post(f"{address}/api/v1/predict", content=send(), headers=JSON, timeout=60)


def check_swaps(server, releases, n_swaps):
    statuses, stop = [], threading.Event()

    def keep_asking(ask):
        for reply in ask(str(server.client.base_url)):
            statuses.append(reply.status_code)
            if stop.is_set():
                return

    kinds = (ask_kept, ask_kept, ask_new, ask_slowly)
    askers = [threading.Thread(target=keep_asking, args=[ask]) for ask in kinds]
    for asker in askers:
        asker.start()
    try:
        swap_slots(server, releases, n_swaps)
    finally:
        stop.set()
        for asker in askers:
            asker.join()
        crown(server.home, releases / "first")
    print(f"\n{len(statuses)} replies during {n_swaps} swaps")
    assert len(statuses) > 5 * n_swaps
    assert set(statuses) == {200}


def test_four_swaps_under_load_fail_no_request(service, releases):
    check_swaps(service, releases, 4)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_two_hundred_swaps_under_load_fail_no_request(service, releases):
    check_swaps(service, releases, 200)


def test_moves_are_what_the_journal_has(service, releases):
    rollout = start(service, releases / "second", 0.3, 0.6, 1)
    write_move(rollout, "judge", "better", step=1)
    apply_rollout_command(DATASET, "abort", "ann", "no")
    assert [(m.weight, m.by) for m in read_rollout_moves(DATASET)] == [
        (0.3, "gate"),
        (0.6, "judge"),
        (0, "ann"),
    ]


def test_after_kill_9_each_series_has_its_release_and_the_routes_go_on_and_take_back(service, releases):
    first, second = (digest_of(releases / name) for name in ("first", "second"))
    path = "/api/v1/rollout"
    refused = service.client.post(f"{path}/pause", json={})
    assert (refused.status_code, refused.json()["thing"]) == (409, "rollout")
    start(service, releases / "second", find_weight(second, 1), 1)
    assigned = ask_digests(service)
    paused = service.client.post(f"{path}/pause", json={"reason": "new meters"}).json()
    assert (paused["state"], paused["by"], paused["reason"]) == ("paused", "anonymous", "new meters")
    assert service.client.post(f"{path}/resume", json={"why": "x"}).status_code == 422
    service.process.send_signal(signal.SIGKILL)  # the last test of this server
    with serving(service.home) as again:
        assert ask_digests(again) == assigned
        assert read_slot(again)["state"] == "paused"
        assert again.client.post(f"{path}/resume", json={}).json()["state"] == "running"
        assert again.client.post(f"{path}/abort", json={"reason": "enough"}).json()["state"] == "back"
        assert set(ask_digests(again).values()) == {first}
    assert read_rollout(DATASET).reason == "enough"
