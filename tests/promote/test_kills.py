"""kill -9 before each change of a file while the champion changes, twice: what is left, and what
the next call makes of it. What came before is kept by the test itself."""

import shutil
from typing import NamedTuple

import pytest
import yaml
from homes import at_home, small_root
from killed import run_killed
from reports import gate_decision
from servers import digest_of
from small_release import START, build_small_release, small_rows

from tasks.core.rollout import RolloutParams
from tasks.edges.approvals import list_requests
from tasks.edges.artifacts import write_report
from tasks.edges.registry import (
    apply_kept_release,
    apply_promotion,
    get_champion_folder,
    read_champion,
    read_journal,
)
from tasks.edges.rollouts import (
    apply_rollout_command,
    find_active_rollout,
    read_rollout_moves,
    start_rollout,
    write_move,
)
from tasks.promote.apply import apply_winner, approve_release, request_winner_approval
from tasks.release import check_manifest
from tasks.rollout.decide import Move
from tasks.rollout.stage import _apply as apply_move

ROWS = small_rows(300)
STEPS = RolloutParams(steps_frac=(0.25, 1))


class Scene(NamedTuple):
    """first, second: digests of the champion and of the release that takes over."""

    root: object
    first: str
    second: str
    decision: object


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A champion, a challenger in models/release, and a home."""
    folder = tmp_path_factory.mktemp("killed")
    cut = {"gate_steps": 60, "n_history": 20}
    small_root(folder / "root", ROWS, {"weights": {"ridge": 1.0}, "model": "better", **cut}, cut)
    build_small_release(folder / "old", ROWS, weights={"window_mean": 1.0}, model="old", **cut)
    with at_home(folder / "home", TIDEMILL_OPERATOR="ada"):
        for release in (folder / "old", folder / "root/models/release/baseline"):
            apply_promotion("small", release, gate_decision(as_of=START))
    return folder


def arrange(template, folder):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    root = folder / "root"
    first, second = digest_of(root / "models/release/baseline"), digest_of(root / "models/release")
    digests = {"champion_digest": first, "opponent_digest": first, "winner_digest": second}
    decision = gate_decision(**digests, challenger_digest=second, as_of=ROWS["known_at"].max())
    write_report(root / decision.PATH, decision)
    return Scene(root, first, second, decision)


def promote(scene):
    return lambda: apply_winner(scene.decision, scene.root)


def approve(scene):
    params = yaml.safe_load((scene.root / "params.yaml").read_text())
    params["promote"]["approval"] = "required"
    (scene.root / "params.yaml").write_text(yaml.safe_dump(params))
    request_winner_approval(scene.decision, scene.root)

    def act():
        if list_requests("small")[-1].state == "waiting":
            approve_release("small", scene.second, "grace", "fine", scene.root)
        else:
            apply_winner(scene.decision, scene.root)

    return act


def begin(scene):
    return lambda: start_rollout("small", scene.root / "models/release", scene.decision, STEPS)


def end(scene):
    begin(scene)()
    facts = {"as_of": scene.decision.as_of}

    def act():
        """As the judge: what a kill after the promotion left is completed."""
        if (rollout := find_active_rollout("small")) is None:
            return
        if read_champion("small").digest == rollout.challenger:
            write_move(rollout, "judge", "better", state="promoted")
        else:
            apply_move(rollout, Move("promote", "better"), **facts)

    return act


def abort(scene):
    begin(scene)()

    def act():
        if find_active_rollout("small") is not None:
            apply_rollout_command("small", "abort", "ada", "enough")

    return act


def go_back(scene):
    old = read_journal("small")[0].digest
    return lambda: apply_kept_release("small", old, "rollback", "ada", "bias")


# name -> (what is called, the champion after it, promotions in the journal after it)
ACTIONS = {
    "promote": (promote, "better", 3),
    "approve": (approve, "better", 3),
    "begin a rollout": (begin, "last_value", 2),
    "end a rollout": (end, "better", 3),
    "abort a rollout": (abort, "last_value", 2),
    "roll back": (go_back, "old", 3),
}


def check_state(champions):
    """One whole champion of *champions*, and journals that verify."""
    champion = read_champion("small")
    assert champion.model in champions
    assert check_manifest(get_champion_folder(champion)).digest == champion.digest
    assert [line.model for line in read_journal("small")][:2] == ["old", "last_value"]
    read_rollout_moves("small")
    list_requests("small")


def run_campaign(template, folder, name, every):
    """The number of points. Each is killed twice, then the call is made whole, and once more."""
    build, after, n_lines = ACTIONS[name]
    n = 1
    while True:
        with at_home(folder / "scene/home", TIDEMILL_OPERATOR="ada"):
            act = build(arrange(template, folder / "scene"))
            if not run_killed(act, n, folder):
                return n - 1
            check_state({"last_value", after})
            run_killed(act, n, folder)
            check_state({"last_value", after})
            for _ in range(2):
                act()
                check_state({after})
                journal = read_journal("small")
                assert (len(journal), journal[-1].digest) == (n_lines, read_champion("small").digest)
            moves = [move.state for move in read_rollout_moves("small")]
            expected = {"begin": ["running"], "end": ["running", "promoted"], "abort": ["running", "back"]}
            assert moves == expected.get(name.split()[0], [])
        n += every


@pytest.mark.parametrize("name", ["promote", "end a rollout"])
def test_kills_at_some_changes_leave_one_champion_and_the_next_call_completes(template, tmp_path, name):
    run_campaign(template, tmp_path, name, 9)


@pytest.mark.chaos
@pytest.mark.parametrize("name", ACTIONS)
def test_kills_at_every_change_leave_one_champion_and_the_next_call_completes(template, tmp_path, name):
    n_points = run_campaign(template, tmp_path, name, 1)
    print(f"{name}: {n_points} points")
    assert n_points > 5
