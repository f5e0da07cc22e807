"""Releases that must not answer everyone: each is stopped, at the place that the table names.

The champion has the last value, and the challenger that every case spoils has a ridge.
"""

import json
import re
import shutil
from contextlib import nullcontext
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import onnx
import polars as pl
import pytest
from homes import at_home, small_root, write_clean
from memoriser import build_memoriser
from onnx import TensorProto, helper, numpy_helper
from reports import gate_decision
from small_release import START, build_biased_release, build_small_release, small_about, small_rows

from tasks.core.errors import TidemillError
from tasks.core.frames import SERIES
from tasks.core.reports.package import OnlineComparison
from tasks.core.reports.promote import GateDecision
from tasks.core.rollout import RolloutParams
from tasks.edges.artifacts import read_report, write_frame
from tasks.edges.registry import apply_promotion, get_rows_path, read_champion
from tasks.edges.release_files import SIGNATURE, get_release_folder
from tasks.edges.rollouts import find_active_rollout, start_rollout, write_challenger_error
from tasks.edges.settings import ROOT
from tasks.promote.__main__ import main
from tasks.release import write_manifest
from tasks.rollout.stage import judge_rollout

ROWS = small_rows(560)
GATE_ROWS = ROWS.filter(pl.col("event_time") < START + timedelta(days=500))
GOOD = {"weights": {"ridge": 1.0}, "model": "good", "n_history": 200}


class Stopped(NamedTuple):
    place: str
    reason: str


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    steps = {"rollout": {"steps_frac": [0.5, 1], "max_errors": 1}}
    small_root(folder, GATE_ROWS, challenger=GOOD, baseline={"weights": {"last_value": 1.0}}, **steps)
    return folder


@pytest.fixture
def root(template, tmp_path):
    with at_home(tmp_path / "home"):
        root = shutil.copytree(template, tmp_path / "root")
        apply_promotion("small", root / "models/release/baseline", gate_decision(as_of=START))
        yield root


def try_release(root, spoil_copy=None, spoil_live=None):
    """Where the release in *root* is stopped on its way from the gate to all traffic.

    spoil_copy: called with the folder that the service loads; spoil_live: with the rollout.
    """
    try:
        main(root, deliver=nullcontext)
    except TidemillError as error:
        return Stopped("warm-up" if "its own rows" in str(error) else "load", str(error))
    decision = read_report(root / GateDecision.PATH, GateDecision)
    if (rollout := find_active_rollout("small")) is None:
        return Stopped("gate", decision.reason)
    if spoil_copy is not None:
        spoil_copy(get_release_folder(rollout.challenger))
    if spoil_live is not None:
        spoil_live(rollout)
    write_frame(get_rows_path("small"), ROWS, SERIES)
    judgement = judge_rollout(root, report=[].append)
    if judgement.action == "back":
        return Stopped("load" if spoil_copy else "rollout", judgement.reason)
    return Stopped("nowhere", judgement.reason)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rebuild(root, **options):
    release = root / "models/release"
    kept = release.rename(root / "kept")
    build_small_release(release, rows=GATE_ROWS, **{"gate_steps": 120, **GOOD, **options})
    (kept / "baseline").rename(release / "baseline")
    return release


def change_history(release, **columns):
    path = release / "history.parquet"
    pl.read_parquet(path).with_columns(**columns).write_parquet(path)
    write_manifest(release)


def change_graph(release, nodes, constants):
    """*nodes* make `z_hat` of the member's former output `clean`."""
    path = release / "members/ridge.onnx"
    graph = onnx.load(path)
    for node in graph.graph.node:
        node.output[:] = ["clean" if name == "z_hat" else name for name in node.output]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(graph)
    onnx.save(graph, path)
    write_manifest(release)


def make_nan_at_the_edge(release):
    """NaN where the level is high, which is where an error would be large."""
    nodes = [
        helper.make_node("Greater", ["clean", "edge"], ["is_high"]),
        helper.make_node("Where", ["is_high", "nan", "clean"], ["z_hat"]),
    ]
    level = float(np.log(GATE_ROWS["load"].quantile(0.9)))
    constants = {"edge": np.array([level], np.float32), "nan": np.array([np.nan], np.float32)}
    change_graph(release, nodes, constants)


def make_slow(release, n_loops):
    """A loop in the graph that adds nothing, *n_loops* times."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes_on"]),
            helper.make_node("Mul", ["value", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["n", "yes", "clean"], ["z_hat"], body=body)]
    constants = {"n": np.array(n_loops), "yes": np.array(True), "one": np.array([1.0], np.float32)}
    change_graph(release, nodes, constants)


def add_leak(root):
    edit(root / "models/release/leaks.json", table="0" * 64, findings=[LEAK])
    write_manifest(root / "models/release")


LEAK = {"rule": "recomputed", "feature": "z_mean_7", "says": "z_mean_7 knows the next step"}


def swap_release(folder):
    """An old release under the new name."""
    old = get_release_folder(read_champion("small").digest)
    shutil.rmtree(folder)
    shutil.copytree(old, folder)


def link(folder):
    path = folder / "rows.parquet"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def of(change):
    """A case that spoils models/release before anything reads it."""
    return lambda root: (change(root / "models/release"), try_release(root))[1]


def fail_requests(rollout):
    for k in range(2):
        write_challenger_error("small", rollout.challenger, f"no {k}")


def try_biased(root):
    """Its bias began after its errors were kept, and an operator has waved it through the gate."""
    build_biased_release(root / "biased", GATE_ROWS, dataset="small")
    decision = gate_decision(as_of=GATE_ROWS["known_at"].max(), decision="promote")
    start_rollout("small", root / "biased", decision, RolloutParams(steps_frac=(0.5, 1)))
    write_frame(get_rows_path("small"), ROWS, SERIES)
    judgement = judge_rollout(root, report=[].append)
    return Stopped("rollout" if judgement.action == "back" else "nowhere", judgement.reason)


def try_online(root):
    """Its Bento was compared with training when it was another release."""
    figures = dict.fromkeys(("n_series", "n_histories", "n_features", "n_forecasts"), 1)
    times = {"first_cutoff": START.isoformat(), "last_cutoff": START.isoformat()}
    content = {"schema": 1, "digest": "0" * 64, "max_difference": 0.0, "limit": 1e-6, **figures, **times}
    (root / "models/release" / OnlineComparison.PATH.split("/")[-1]).write_text(json.dumps(content))
    return try_release(root)


def try_early(root):
    """Two months after training, of which 40 cutoffs have outcomes."""
    write_clean(root, GATE_ROWS.filter(pl.col("event_time") < START + timedelta(days=425)))
    return try_release(root)


def empty_rows(release):
    """The gate has rows of its own, and the service would begin with these."""
    path = release / "rows.parquet"
    pl.read_parquet(path).with_columns(load=pl.lit(None, pl.Float64)).write_parquet(path)
    write_manifest(release)


def change_schema(release):
    schema = json.loads((release / "schema.json").read_text())
    schema["columns"][0]["lookback_steps"] += 1
    (release / "schema.json").write_text(json.dumps(schema))


def take(root, name):
    """The release in the folder *name* as the one to promote."""
    fresh = shutil.copytree(root / name, root / "taken")
    shutil.move(root / "models/release", root / "former")
    shutil.move(fresh, root / "models/release")
    shutil.copytree(root / "former/baseline", root / "models/release/baseline")


# name -> (place, what the message has, the case)
CASES = {
    "flipped byte in the graph": (
        "load",
        "members/ridge.onnx was altered",
        of(lambda r: flip(r / "members/ridge.onnx")),
    ),
    "flipped byte in the rows": ("load", "rows.parquet was altered", of(lambda r: flip(r / "rows.parquet"))),
    "extra file": ("load", "was added", of(lambda r: (r / "members/more.onnx").write_bytes(b"x"))),
    "missing member": ("load", "is missing", of(lambda r: (r / "members/ridge.onnx").unlink())),
    "missing rows": ("load", "rows.parquet is missing", of(lambda r: (r / "rows.parquet").unlink())),
    "altered manifest": (
        "load",
        "manifest.json was altered",
        of(lambda r: edit(r / "manifest.json", model="x")),
    ),
    "no graph": (
        "load",
        "is no graph",
        of(lambda r: ((r / "members/ridge.onnx").write_bytes(b"no"), write_manifest(r))),
    ),
    "wrong schema": ("load", "computes other features", of(lambda r: (change_schema(r), write_manifest(r)))),
    "wrong horizon": (
        "load",
        "about.horizon_steps",
        lambda root: (rebuild(root, about=small_about(horizon_steps=3)), try_release(root))[1],
    ),
    "other dataset": ("load", "other", lambda root: (rebuild(root, dataset="other"), try_release(root))[1]),
    "a leak": ("load", "z_mean_7", lambda root: (add_leak(root), try_release(root))[1]),
    "leak verdict of other data": (
        "load",
        "leak gate's verdict is about data_version",
        of(lambda r: (edit(r / "leaks.json", data_version="1" * 64), write_manifest(r))),
    ),
    "no leak verdict": ("load", "leaks.json", of(lambda r: ((r / "leaks.json").unlink(), write_manifest(r)))),
    "another release's comparison with training": ("load", "dvc repro -f package", try_online),
    "unsigned": (
        "load",
        "as it was signed",
        lambda root: try_release(root, lambda f: (f / SIGNATURE).unlink()),
    ),
    "forged signature": ("load", "signature", lambda root: try_release(root, lambda f: flip(f / SIGNATURE))),
    "flipped byte in the card after signing": (
        "load",
        "provenance",
        lambda root: (
            (root / "models/release/provenance.json").write_text("{}"),
            try_release(root, lambda f: (f / "provenance.json").write_text("{ }")),
        )[1],
    ),
    "a link after signing": ("load", "is a link", lambda root: try_release(root, link)),
    "old release under a new name": (
        "load",
        "is not the release",
        lambda root: try_release(root, swap_release),
    ),
    "constant bias": (
        "gate",
        "above the other's",
        lambda root: (
            build_biased_release(root / "b", GATE_ROWS, gate_steps=120, dataset="small"),
            take(root, "b"),
            try_release(root),
        )[2],
    ),
    "a memoriser": (
        "gate",
        "above the other's",
        lambda root: (build_memoriser(root / "b", GATE_ROWS, 120), take(root, "b"), try_release(root))[2],
    ),
    "the champion again": (
        "gate",
        "same release",
        lambda root: (take(root, "models/release/baseline"), try_release(root))[1],
    ),
    "too few outcomes": ("gate", "fewer than `promote.min_gate_rows`", try_early),
    "NaN at the edge": ("gate", "forecasts no number for", of(make_nan_at_the_edge)),
    "NaN everywhere": (
        "gate",
        "0 cutoffs",
        of(
            lambda r: change_graph(
                r,
                [helper.make_node("Mul", ["clean", "nan"], ["z_hat"])],
                {"nan": np.array([np.nan], np.float32)},
            )
        ),
    ),
    "too narrow intervals": (
        "gate",
        "of the outcomes where 80% are meant",
        of(
            lambda r: (
                edit(r / "ensemble.json", adapt_rate=0.0, residuals=2000),
                change_history(
                    r, z_hat=pl.coalesce(pl.col("z") + (pl.col("z_hat") - pl.col("z")) / 10, "z_hat")
                ),
            )
        ),
    ),
    "slow": ("gate", "times as long as the other's", of(lambda r: make_slow(r, 300_000))),
    "rows of its own that it cannot forecast from": (
        "warm-up",
        "forecasts no series from its own rows",
        of(empty_rows),
    ),
    "fails requests": (
        "rollout",
        "it failed 2 requests",
        lambda root: try_release(root, spoil_live=fail_requests),
    ),
    "a bias that the gate has not seen": ("rollout", "its forecasts are worse", try_biased),
}
SHORT = (
    "flipped byte in the graph",
    "NaN at the edge",
    "too narrow intervals",
    "old release under a new name",
    "a leak",
)


def check_case(root, name):
    place, text, run = CASES[name]
    if name == "a memoriser":  # it is better than the last value
        apply_promotion("small", root / "models/release", gate_decision(as_of=START))
    champion = read_champion("small")
    stopped = run(root)
    print(f"{name}: {stopped.place}: {stopped.reason}")
    assert stopped.place == place, stopped.reason
    assert text in stopped.reason
    assert read_champion("small") == champion


def test_the_release_that_the_cases_spoil_takes_over(root):
    found = try_release(root)
    assert found.place == "nowhere", found.reason
    assert find_active_rollout("small") is None
    assert read_champion("small").model == "good"


def test_the_page_has_each_case_with_its_place():
    page = (ROOT / "docs/how-it-works/how-a-release-is-decided.md").read_text()
    listed = dict(
        re.findall(r"^\| (.+?) \| (load|gate|warm-up|rollout|package) \|", page, flags=re.MULTILINE)
    )
    assert {name: place for name, (place, _, _) in CASES.items()}.items() <= listed.items()
    assert len(listed) >= 30


@pytest.mark.parametrize("name", SHORT)
def test_a_bad_release_is_stopped_before_all_traffic(root, name):
    check_case(root, name)


@pytest.mark.chaos
@pytest.mark.parametrize("name", [name for name in CASES if name not in SHORT])
def test_every_other_bad_release_is_stopped_too(root, name):
    check_case(root, name)
