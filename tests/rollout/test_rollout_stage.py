"""A rollout of a small dataset from the gate to its end, on rows that come later."""

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest
from homes import PROMOTE, at_home, small_root
from prefect.logging import disable_run_logger
from reports import gate_decision, retrain_decision
from rollout_runs import BEGUN, build_rollout_releases, select_known
from servers import DATASET, digest_of
from small_release import START, build_small_release
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.console.pages import rollout as rollout_page
from flows._events import RolloutMoved
from flows.refresh import _judge
from tasks.alerts.params import AlertParams
from tasks.alerts.sources import SOURCES, AlarmContext
from tasks.core.errors import JournalError, ReleaseError, RolloutError
from tasks.core.frames import SERIES
from tasks.core.rollout import RolloutParams
from tasks.edges.artifacts import write_frame
from tasks.edges.params import read_document
from tasks.edges.registry import apply_promotion, get_rows_path, read_champion
from tasks.edges.release_files import get_release_folder
from tasks.edges.rollouts import (
    apply_rollout_command,
    find_active_rollout,
    find_judgement,
    get_judgement_path,
    get_rollout_path,
    read_rollout,
    read_rollout_moves,
    start_rollout,
    write_challenger_error,
    write_move,
)
from tasks.edges.settings import ROOT
from tasks.promote.__main__ import main as promote
from tasks.promote.apply import approve_release
from tasks.release import load_release
from tasks.retrain.journal import read_retrainings, write_end, write_start
from tasks.rollout.losses import compute_live_losses
from tasks.rollout.stage import judge_rollout

PARAMS = RolloutParams(steps_frac=(0.1, 0.5, 1), max_steps=180)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_rollout_releases(tmp_path_factory.mktemp("built"))


@pytest.fixture
def home(tmp_path, built):
    """With `plain` as champion."""
    with at_home(tmp_path / "home") as home:
        apply_promotion(DATASET, built / "plain", gate_decision(as_of=BEGUN))
        yield home


def begin(built, name, params=PARAMS):
    decision = gate_decision(as_of=BEGUN, decision="promote")
    return start_rollout(DATASET, built / name, decision, params)


def judge_at(day):
    write_frame(get_rows_path(DATASET), select_known(day), SERIES)
    return judge_rollout(report=[].append)


def test_a_biased_challenger_goes_back_within_the_label_delay_and_eight_blocks(home, built):
    """Its horizon is 5 days; nothing but its forecasts is wrong."""
    plain = read_champion(DATASET)
    begin(built, "biased")
    assert judge_at(510).action == "wait"
    judgement = judge_at(500 + 5 + 8 * 5)
    assert (judgement.action, judgement.rollout.state, judgement.rollout.weight) == ("back", "back", 0.0)
    assert "worse" in judgement.reason
    assert read_champion(DATASET) == plain
    assert judge_at(600) is None


def test_a_better_challenger_rises_step_by_step_and_becomes_champion(home, built):
    begin(built, "good")
    days = {510: "wait", 550: "advance", 551: "wait", 620: "promote"}
    assert {day: judge_at(day).action for day in days} == days
    champion = read_champion(DATASET)
    assert (champion.digest, champion.version) == (digest_of(built / "good"), "1.1.0")
    assert champion.promoted_as_of == START + timedelta(days=620)
    moves = read_rollout_moves(DATASET)
    assert [(move.state, move.weight) for move in moves] == [
        ("running", 0.1),
        ("running", 0.5),
        ("promoted", 1),
    ]
    assert all(move.evidence.better > 4 for move in moves[1:])
    assert [move.moved_as_of for move in moves] == [START + timedelta(days=day) for day in (500, 550, 620)]


def test_an_ab_test_keeps_its_share_until_one_has_won(home, built):
    params = RolloutParams(steps_frac=(0.5, 1), rule="ab", min_outcomes=20, max_steps=180)
    begin(built, "good", params)
    assert [judge_at(day).action for day in (510, 550)] == ["wait", "wait"]
    assert read_rollout(DATASET).weight == 0.5
    assert "<h1>A/B test: running at 50%" in rollout_page.render_rollout(ROOT)
    judgement = judge_at(620)
    assert (judgement.action, read_champion(DATASET).model) == ("promote", "good")
    assert "it has won" in judgement.reason
    assert [move.weight for move in read_rollout_moves(DATASET)] == [0.5, 1]


def test_a_retraining_whose_release_went_back_has_brought_none(home, built):
    first, challenger = (digest_of(built / name) for name in ("plain", "biased"))
    begin(built, "biased")
    started = write_start(retrain_decision(dataset=DATASET), None, first)
    write_end(DATASET, started, challenger, "promote")
    judge_at(545)
    (last,) = read_retrainings(DATASET)
    assert (last.new_digest, last.verdict[:12]) == (first, "back: its fo")


def test_a_kill_between_the_champion_and_the_journal_is_completed(home, built):
    rollout = begin(built, "good")
    apply_promotion(DATASET, get_release_folder(rollout.challenger), rollout.decision)
    assert judge_at(505).rollout.state == "promoted"


def test_another_champion_ends_it(home, built):
    begin(built, "good")
    apply_promotion(DATASET, built / "biased", gate_decision(as_of=BEGUN))
    judgement = judge_at(505)
    assert (judgement.rollout.state, judgement.reason) == ("back", "another release has become champion")


def test_a_challenger_whose_bytes_were_changed_goes_back(home, built):
    rollout = begin(built, "good")
    member = next((get_release_folder(rollout.challenger) / "members").iterdir())
    member.write_bytes(b"!")
    assert member.name in judge_at(505).reason


def test_errors_that_the_champion_answered_send_it_back_and_those_of_others_do_not(home, built):
    rollout = begin(built, "good")
    for _ in range(4):
        write_challenger_error(DATASET, "another", "x")
    assert judge_at(505).action == "wait"
    for k in range(4):
        write_challenger_error(DATASET, rollout.challenger, f"no {k}\nat all")
    judgement = judge_at(505)
    assert judgement.action == "back"
    assert "no 3 at all" in judgement.reason


def test_the_verdict_follows_from_the_rows_however_often_it_is_looked_for(home, built):
    begin(built, "biased")
    judged = [judge_at(day) for day in (510, 520)]
    with at_home(home.with_name("once")):
        apply_promotion(DATASET, built / "plain", gate_decision(as_of=BEGUN))
        begin(built, "biased")
        assert judge_at(520).reason == judged[-1].reason
    kept = find_judgement(DATASET)
    assert (kept.reason, kept.evidence.n_cutoffs, len(kept.points)) == (judged[-1].reason, 16, 16)
    assert [point.worse for point in kept.points if point.worse][-1] == kept.evidence.worse
    assert kept.comparison.gain_high_frac < 0
    assert rollout_page.list_inputs(ROOT) == [str(get_judgement_path(DATASET))]
    page = rollout_page.render_rollout(ROOT)
    assert f"{kept.comparison.gain_high_frac:.1%}" in page
    assert page.count("data:image/") == 3


def test_losses_are_in_a_unit_that_later_rows_do_not_change_whatever_the_groups(home, built, monkeypatch):
    good, plain = (load_release(built / name) for name in ("good", "plain"))
    short, long = (compute_live_losses(good, plain, select_known(day), BEGUN) for day in (560, 650))
    n = len(short.cutoffs)
    assert (short.cutoffs[0], n, len(long.cutoffs)) == (BEGUN, 56, 146)
    assert short.cutoffs == long.cutoffs[:n]
    assert short.losses.champion.tolist() == long.losses.champion[:n].tolist()
    assert short.losses.champion_before.tolist() == long.losses.champion_before.tolist()
    usual = (long.losses.champion.mean() + long.losses.challenger.mean()) / 2
    assert 0.5 < usual < 2
    monkeypatch.setattr("tasks.monitor.scheduled.MAX_STEPS", 500)  # 50 cutoffs of 2 series in one group
    grouped = compute_live_losses(good, plain, select_known(560), BEGUN)
    assert grouped.losses.challenger == pytest.approx(short.losses.challenger)


def test_a_pause_holds_the_weight_and_an_abort_goes_back(home, built):
    begin(built, "good")
    paused = apply_rollout_command(DATASET, "pause", "ann", "holiday")
    assert (paused.state, paused.weight, paused.by, paused.reason) == ("paused", 0.1, "ann", "holiday")
    assert apply_rollout_command(DATASET, "pause", "bob", "") == paused
    judgement = judge_at(560)
    assert (judgement.action, judgement.rollout.step) == ("wait", 0)
    assert apply_rollout_command(DATASET, "resume", "ann", "").state == "running"
    assert judge_at(560).action == "advance"
    aborted = apply_rollout_command(DATASET, "abort", "ann", "no longer wanted")
    assert (aborted.state, aborted.weight) == ("back", 0.0)
    with pytest.raises(RolloutError, match="nothing to resume"):
        apply_rollout_command(DATASET, "resume", "ann", "")


def test_a_move_on_a_state_that_is_gone_is_refused(home, built):
    rollout = begin(built, "good")
    apply_rollout_command(DATASET, "abort", "ann", "")
    applied = []
    with pytest.raises(RolloutError, match="moved meanwhile"):
        write_move(rollout, "judge", "late", lambda: applied.append(1), state="promoted")
    assert applied == []
    assert read_rollout(DATASET).state == "back"


def test_a_second_begin_changes_nothing_and_what_went_back_stays_so(home, built):
    first = begin(built, "good")
    assert begin(built, "good") == first
    apply_rollout_command(DATASET, "abort", "ann", "")
    assert begin(built, "good").state == "back"
    assert find_active_rollout(DATASET) is None


def test_the_next_that_passes_the_gate_takes_the_place(home, built):
    begin(built, "good")
    begin(built, "biased")
    states = [(move.model, move.state) for move in read_rollout_moves(DATASET)]
    assert states == [("good", "running"), ("good", "back"), ("biased", "running")]


def test_a_line_that_was_cut_off_counts_as_not_written_and_a_changed_one_is_found(home, built):
    rollout = begin(built, "good")
    path = get_rollout_path(DATASET)
    with path.open("a") as handle:
        handle.write('{"state": "ba')
    assert read_rollout(DATASET) == rollout
    line = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**line, "step": 1}, sort_keys=True) + "\n")
    with pytest.raises(JournalError, match="Line 1"):
        judge_at(505)


def test_an_unsealed_folder_begins_nothing(home, tmp_path):
    with pytest.raises(ReleaseError, match="no sealed release"):
        start_rollout(DATASET, tmp_path, gate_decision(as_of=BEGUN), PARAMS)
    assert read_rollout(DATASET) is None


def test_a_release_that_passed_the_gate_and_was_approved_takes_over_by_steps(tmp_path):
    """The first champion, of which there is nothing to compare, needs no steps."""
    rows = select_known(500)
    steps = {"rollout": {"steps_frac": [0.25, 1], "max_steps": 200}}
    plain = {"weights": {"last_value": 1.0}, "model": "plain"}
    with at_home(tmp_path / "home"):
        root = small_root(tmp_path / "root", rows, challenger=plain, **steps)
        promote(root, deliver=nullcontext)
        first = read_champion("small")
        assert read_rollout("small") is None
        small_root(root, rows, promote={**PROMOTE, "approval": "required"}, **steps)
        better = build_small_release(
            root / "models/release", rows, 120, weights={"ridge": 1.0}, model="better"
        )
        promote(root, deliver=nullcontext)
        assert find_active_rollout("small") is None
        assert approve_release("small", better.digest, "grace", "looked at it", root) == first
        rollout = find_active_rollout("small")
        assert (rollout.model, rollout.weight, rollout.champion) == ("better", 0.25, first.digest)
        promote(root, deliver=nullcontext)
        assert find_active_rollout("small") == rollout
        write_frame(get_rows_path("small"), select_known(680), SERIES)
        assert judge_rollout(root, report=[].append).action == "promote"
        champion = read_champion("small")
        assert (champion.digest, champion.by) == (better.digest, "grace")
        assert champion.approval == rollout.approval is not None
        assert champion.signed_by is not None


def run_command(*words):
    done = CliRunner().invoke(app, ["rollout", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_judges_shows_holds_and_takes_back(home, built):
    assert "No release" in run_command("status")
    begin(built, "biased")
    write_frame(get_rows_path(DATASET), select_known(510), SERIES)
    assert json.loads(run_command("judge", "--json"))["action"] == "wait"
    assert "inconclusive" in run_command("status")
    assert "paused at 10%" in run_command("pause", "--reason", "new meters")
    state = json.loads(run_command("status", "--json"))
    assert [(move["state"], move["by"]) for move in state["moves"]] == [
        ("running", "gate"),
        ("paused", "operator"),
    ]
    assert json.loads(run_command("resume", "--json"))["state"] == "running"
    assert "back at 0%" in run_command("abort")
    assert "No rollout is active" in run_command("judge")


def test_the_refresh_flow_moves_it_and_its_event_says_so_and_an_alarm_is_raised(home, built):
    begin(built, "biased")
    write_frame(get_rows_path(DATASET), select_known(545), SERIES)
    with disable_run_logger():
        moved = RolloutMoved.model_validate(_judge.fn())
    assert (moved.action, moved.weight, moved.challenger) == ("back", 0.0, digest_of(built / "biased"))
    now = datetime.now(UTC)
    context = AlarmContext(read_document(), AlertParams(), ROOT, now)
    (alarm,) = SOURCES["rollout"](context)
    assert (alarm.name, alarm.severity) == ("rollout_back", "warning")
    assert "worse" in alarm.summary
    assert SOURCES["rollout"](context._replace(now=now + timedelta(days=2))) == []
