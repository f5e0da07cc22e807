"""The stage as a command: what it writes, what it changes, and that a verdict stands."""

import shutil
import subprocess
import sys
from contextlib import nullcontext
from datetime import timedelta

import polars as pl
import pytest
from homes import at_home, put_release, small_root, write_clean
from reports import gate_decision
from small_release import START, build_small_release, small_rows

from tasks.core.errors import ReleaseError
from tasks.core.reports.promote import GateDecision
from tasks.edges import registry
from tasks.edges.artifacts import read_report
from tasks.edges.registry import (
    apply_promotion,
    get_champion_folder,
    get_rows_path,
    read_champion,
    read_journal,
)
from tasks.edges.settings import ROOT, build_child_environment
from tasks.edges.tracking import get_outbox_folder
from tasks.promote.__main__ import main
from tasks.promote.apply import apply_decision
from tasks.release import check_manifest
from tasks.release.kept import apply_rollback

ROWS = small_rows(500)
BETTER, WORSE = (
    {"weights": {"ridge": 1.0}, "model": "better"},
    {
        "weights": {"last_value": 1.0},
        "model": "worse",
    },
)


@pytest.fixture
def home(tmp_path):
    with at_home(tmp_path / "home") as home:
        yield home


def run(root):
    main(root, deliver=nullcontext)
    return read_report(root / GateDecision.PATH, GateDecision)


def test_a_first_model_that_beats_the_baseline_becomes_champion(tmp_path, home):
    root = small_root(tmp_path / "root", ROWS, challenger=BETTER)
    decision = run(root)
    champion = read_champion("small")
    assert (decision.decision, decision.applied, champion.version) == ("promote", True, "1.0.0")
    assert champion.digest == decision.winner_digest == check_manifest(get_champion_folder(champion)).digest
    assert champion.decision == decision
    assert pl.read_parquet(get_rows_path("small")).equals(ROWS)
    assert [path.name for path in sorted((root / "data/decisions/promote").iterdir())] == [
        "decision.json",
        "losses.parquet",
    ]


def test_a_first_model_that_does_not_is_said_and_the_baseline_answers(tmp_path, home):
    root = small_root(
        tmp_path / "root", ROWS, challenger=WORSE, baseline={"weights": {"ridge": 1.0}, "model": "naive"}
    )
    decision = run(root)
    assert decision.decision == "baseline"
    assert "the baseline is served" in decision.reason
    assert read_champion("small").model == "naive"


def test_a_worse_challenger_leaves_the_champion(tmp_path, home):
    root = small_root(tmp_path / "root", ROWS, challenger=BETTER)
    first = run(root)
    put_release(root, ROWS, **WORSE)
    second = run(root)
    assert (second.decision, second.applied, second.champion_digest) == (
        "keep",
        False,
        first.winner_digest,
    )
    assert read_champion("small").digest == first.winner_digest


def test_with_nothing_new_the_verdict_stands_byte_for_byte_without_heavy_imports(tmp_path, home):
    root = small_root(tmp_path / "root", ROWS, challenger=BETTER)
    run(root)
    shutil.rmtree(get_outbox_folder())  # delivered
    before = {path.name: path.read_bytes() for path in (root / "data/decisions/promote").iterdir()}
    code = (
        "import sys; from pathlib import Path; from tasks.promote.__main__ import main;"
        f" main(Path({str(root)!r})); print(sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=build_child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nothing new" in done.stdout
    loaded = set(done.stdout.splitlines()[-1].strip("[]").replace("'", "").split(", "))
    assert "tasks.edges.registry" in loaded
    assert not loaded & {
        "onnxruntime",
        "mlflow",
        "matplotlib",
        "scipy",
        "numpy",
        "tasks.release",
        "tasks.features",
    }
    assert {path.name: path.read_bytes() for path in (root / "data/decisions/promote").iterdir()} == before
    assert len(read_journal("small")) == 1


def test_new_rows_are_a_new_question_and_are_published(tmp_path, home):
    root = small_root(
        tmp_path / "root",
        ROWS.filter(pl.col("event_time") < START + timedelta(days=480)),
        challenger={**BETTER, "gate_steps": 100},
    )
    run(root)
    write_clean(root, ROWS)
    decision = run(root)
    assert (decision.decision, decision.as_of.isoformat()) == ("nothing", "2021-05-15T00:00:00+00:00")
    assert pl.read_parquet(get_rows_path("small")).equals(ROWS)


def test_a_run_killed_after_it_changed_the_registry_ends_with_the_same_verdict(tmp_path, home):
    """The registry is changed before decision.json is put in place; without the file, the next
    run must judge what was judged."""
    root = small_root(tmp_path / "root", ROWS, challenger=BETTER)
    run(root)
    decided = root / GateDecision.PATH
    undisturbed = decided.read_bytes()
    decided.unlink()
    run(root)
    assert decided.read_bytes() == undisturbed
    assert len(read_journal("small")) == 1


def test_a_run_killed_while_it_changed_the_registry_is_completed_by_the_next(tmp_path, home, monkeypatch):
    """Between the line of the journal and champion.json."""
    root = small_root(tmp_path / "root", ROWS, challenger=BETTER)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            run(root)
    assert (read_champion("small"), len(read_journal("small"))) == (None, 1)
    decision = run(root)
    assert read_champion("small") == read_journal("small")[-1]
    assert (read_champion("small").digest, len(read_journal("small"))) == (decision.winner_digest, 1)


def test_a_shared_registry_is_left_to_the_flow(tmp_path):
    root = small_root(tmp_path / "root", ROWS, challenger=BETTER)
    with at_home(tmp_path / "home", TIDEMILL_MLFLOW_URI="http://127.0.0.1:9"):
        decision = run(root)
        assert (decision.decision, decision.applied, read_champion("small")) == ("promote", False, None)
        applied = apply_decision(root / GateDecision.PATH, root)
        assert read_champion("small") == applied
        assert apply_decision(root / GateDecision.PATH, root) == applied


def test_a_decision_is_bound_to_the_bytes_it_was_made_on(tmp_path):
    root = small_root(tmp_path / "root", ROWS, challenger=BETTER)
    with at_home(tmp_path / "home", TIDEMILL_MLFLOW_URI="http://127.0.0.1:9"):
        run(root)
        put_release(root, ROWS, **WORSE)
        with pytest.raises(ReleaseError, match="the decision is about"):
            apply_decision(root / GateDecision.PATH, root)


def test_what_was_taken_back_is_promoted_on_later_evidence_alone(tmp_path, home):
    """`better` beats the champion on all rows; after a rollback only new cutoffs count for it."""
    at = ROWS["known_at"].max()
    early = ROWS.filter(pl.col("event_time") < START + timedelta(days=430))
    root = small_root(
        tmp_path / "root", early, challenger={**BETTER, "gate_steps": 200}, baseline={"gate_steps": 200}
    )
    run(root)
    worse = build_small_release(tmp_path / "worse", rows=early, gate_steps=200, **WORSE)
    apply_promotion("small", tmp_path / "worse", gate_decision(as_of=START))
    assert run(root).decision == "promote"
    apply_rollback("small", worse.digest, "grace", "bias")
    assert run(root).applied, "with nothing new the verdict stays, and the registry as it was set"
    assert read_champion("small").digest == worse.digest
    few = ROWS.filter(pl.col("event_time") < START + timedelta(days=440))
    write_clean(root, few)
    decision = run(root)
    assert (decision.decision, decision.winner_digest) == ("inconclusive", None)
    assert "it was taken back, so only cutoffs since 2021-03-06 00:00:00Z count" in decision.reason
    write_clean(root, ROWS)
    decision = run(root)
    assert (decision.decision, decision.as_of) == ("promote", at)
    assert decision.first_cutoff.isoformat() == "2021-03-06T00:00:00+00:00"


def test_a_decision_that_was_applied_and_taken_back_is_not_applied_again(tmp_path):
    """As flows/promotion does it for a shared registry, whenever it runs."""
    root = small_root(tmp_path / "root", ROWS, challenger=BETTER)
    with at_home(tmp_path / "home", TIDEMILL_MLFLOW_URI="http://127.0.0.1:9"):
        apply_promotion("small", root / "models/release/baseline", gate_decision(as_of=START))
        run(root)
        assert apply_decision(root / GateDecision.PATH, root).model == "better"
        back = apply_rollback("small", None, "grace", "bias")
        assert back.model == "last_value"
        assert apply_decision(root / GateDecision.PATH, root) is None
        assert read_champion("small") == back


def test_a_decision_is_bound_to_the_champion_it_was_made_against(tmp_path):
    root = small_root(tmp_path / "root", ROWS, challenger=BETTER)
    with at_home(tmp_path / "home", TIDEMILL_MLFLOW_URI="http://127.0.0.1:9"):
        run(root)
        apply_promotion("small", root / "models/release/baseline", gate_decision(as_of=START))
        with pytest.raises(ReleaseError, match="Decide again"):
            apply_decision(root / GateDecision.PATH, root)
