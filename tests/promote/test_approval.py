"""A promotion that a person must approve: for these bytes, in time, once, and not by its author."""

import json
import shutil
import time
from contextlib import nullcontext

import pytest
from homes import PROMOTE, at_home, put_release, small_root
from reports import gate_decision
from small_release import small_rows
from typer.testing import CliRunner

from deployments.cli.app import app
from tasks.core.errors import ApprovalError, JournalError, ReleaseError, TidemillError
from tasks.core.reports.promote import GateDecision
from tasks.edges import registry
from tasks.edges.approvals import decide_request, list_requests, request_approval
from tasks.edges.artifacts import read_report
from tasks.edges.chained_journal import read_lines
from tasks.edges.registry import apply_promotion, get_champion_folder, read_champion, read_journal
from tasks.edges.release_files import BUNDLE, compute_release_hashes
from tasks.promote.__main__ import main
from tasks.promote.apply import apply_decision, approve_release
from tasks.release.kept import apply_rollback

ROWS = small_rows(500)
BETTER = {"weights": {"ridge": 1.0}, "model": "better"}


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """A checkout whose gate has decided, in a home of its own; nothing was promoted."""
    folder = tmp_path_factory.mktemp("decided")
    root = small_root(folder / "root", ROWS, challenger=BETTER, promote={**PROMOTE, "approval": "required"})
    (root / "models/release/model_card.md").write_text("# card\n")
    (root / "models/release/bento").mkdir()
    (root / "models/release/bento/bento.yaml").write_text("labels: {}\n")
    with at_home(folder / "home", TIDEMILL_OPERATOR="ada"):
        main(root, deliver=nullcontext)
    return folder


@pytest.fixture
def root(decided, tmp_path):
    shutil.copytree(decided, tmp_path, dirs_exist_ok=True)
    with at_home(tmp_path / "home", TIDEMILL_OPERATOR="ada"):
        yield tmp_path / "root"


def get_digest(root):
    return read_report(root / GateDecision.PATH, GateDecision).winner_digest


def apply(root):
    return apply_decision(root / GateDecision.PATH, root)


def approve(root, by="grace"):
    return approve_release("small", get_digest(root)[:12], by, "looks right", root)


def list_states():
    return [request.state for request in list_requests("small")]


def list_actions(root):
    lines = read_lines(root.parent / "home/registry/small/approvals.jsonl")
    return [line["action"] for line in lines]


def test_the_gates_winner_waits_and_an_approval_promotes_it(root):
    decision = read_report(root / GateDecision.PATH, GateDecision)
    assert (decision.decision, decision.applied, read_champion("small")) == ("promote", False, None)
    assert apply(root) is None
    main(root, deliver=nullcontext)
    assert list_states() == ["waiting"], "the question is put once"
    champion = approve(root)
    assert champion == read_champion("small") == read_journal("small")[-1]
    assert (champion.digest, champion.by) == (decision.winner_digest, "grace")
    assert list_actions(root) == ["asked", "approved", "used"]
    main(root, deliver=nullcontext)
    assert apply(root) == champion
    assert list_states() == ["used"]


def test_the_author_does_not_approve(root):
    with pytest.raises(ApprovalError, match="'ada' asked for the promotion"):
        approve(root, by="ada")
    assert read_champion("small") is None
    assert list_states() == ["waiting"]


def test_one_changed_byte_in_any_file_after_approval_is_refused_by_name(root):
    (request,) = list_requests("small")
    decide_request("small", request, "approved", "grace", "fine", 60)
    release, names = root / "models/release", sorted(request.files)
    assert {"manifest.json", "model_card.md", "rows.parquet", "bento/bento.yaml"} <= set(names)
    assert not [name for name in names if name.startswith("baseline/")]
    for name in names:
        content = (release / name).read_bytes()
        for changed in (bytes([content[0] ^ 1]) + content[1:], content + b" "):
            (release / name).write_bytes(changed)
            with pytest.raises(TidemillError, match=name.replace(".", r"\.")):
                apply(root)
        (release / name).write_bytes(content)
    (release / "extra").write_text("")
    with pytest.raises(ApprovalError, match="extra was added after it was approved"):
        apply(root)
    (release / "extra").unlink()
    (release / "card").symlink_to("model_card.md")
    with pytest.raises(ReleaseError, match="is a link"):
        apply(root)
    (release / "card").unlink()
    assert read_champion("small") is None
    champion = apply(root)
    assert champion.by == "grace"
    found = compute_release_hashes(get_champion_folder(champion))
    assert {name: found[name] for name in found if name != BUNDLE} == request.files


def test_what_is_approved_is_what_was_asked_for(root):
    (root / "models/release/model_card.md").write_text("# another card\n")
    with pytest.raises(ApprovalError, match=r"model_card\.md was changed after its approval was asked for"):
        approve(root)
    put_release(root, ROWS, weights={"last_value": 1.0}, model="other")
    with pytest.raises(TidemillError):
        approve(root)


def test_an_approval_expires_and_is_asked_for_again(root):
    (request,) = list_requests("small")
    decide_request("small", request, "approved", "grace", "fine", 0.01)
    time.sleep(0.02)
    assert list_states() == ["expired"]
    with pytest.raises(ApprovalError, match="it is expired"):
        approve(root)
    assert apply(root) is None
    assert list_states() == ["expired", "waiting"]
    assert approve(root).digest == request.digest
    assert list_actions(root) == ["asked", "approved", "expired", "asked", "approved", "used"]


def test_what_is_rejected_stays_rejected(root):
    (request,) = list_requests("small")
    decide_request("small", request, "approved", "grace", "fine", 60)
    decide_request("small", request, "rejected", "grace", "on second thoughts")
    assert apply(root) is None
    with pytest.raises(ApprovalError, match=r"rejected \(grace: on second thoughts\)"):
        approve(root)
    assert (list_states(), read_champion("small")) == (["rejected"], None)
    (root / "models/release/model_card.md").write_text("# another build\n")
    assert apply(root) is None
    assert list_states() == ["rejected", "waiting"]


def test_an_approval_is_used_once(root):
    """A kill before the line `used` changes nothing. What was taken back is another question."""
    first = approve(root)
    lines = root.parent / "home/registry/small/approvals.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))
    assert list_states() == ["used"], "the registry's own journal names the approval"
    assert first.approval == 1
    as_of = read_report(root / GateDecision.PATH, GateDecision).as_of
    apply_promotion("small", root / "models/release/baseline", gate_decision(as_of=as_of))
    apply_rollback("small", first.version, "grace", "back")
    assert read_journal("small")[-1].approval is None
    hashes = compute_release_hashes(root / "models/release", without_nested=True)
    again = request_approval("small", first.digest, hashes, "ada", "again", 60.0)
    assert (again.state, list_states()) == ("waiting", ["used", "waiting"])


def test_a_promotion_killed_half_way_is_completed_without_another_approval(root, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            approve(root)
    assert (read_champion("small"), list_states()) == (None, ["used"])
    assert apply(root) == read_champion("small") == read_journal("small")[-1]
    assert (list_states(), len(read_journal("small"))) == (["used"], 1)


def test_a_changed_journal_of_approvals_allows_nothing(root):
    path = root.parent / "home/registry/small/approvals.jsonl"
    path.write_text(path.read_text().replace('"by": "ada"', '"by": "eve"'))
    with pytest.raises(JournalError, match="changed after it was written"):
        approve(root, by="ada")


def test_the_command_line_lists_approves_and_rejects(root):
    """`approve` reads the decision of its own checkout; what it applies is tested above."""
    digest = get_digest(root)

    def tidemill(*arguments, code=0):
        done = CliRunner().invoke(app, [*arguments, "--dataset", "small"], env={"COLUMNS": "200"})
        assert done.exit_code == code, done.output
        return done.output

    (listed,) = json.loads(tidemill("approvals", "--json"))
    assert (listed["digest"], listed["state"], listed["author"]) == (digest, "waiting", "ada")
    assert "ada" in tidemill("approvals")
    assert "No approval of 'ffffffff' was asked for" in tidemill("reject", "ffffffff", code=2)
    printed = tidemill("reject", digest[:12], "--by", "grace", "--reason", "no")
    assert printed == f"{digest[:12]} is rejected; the champion stays.\n"
    assert list_requests("small")[-1].why == "no"
