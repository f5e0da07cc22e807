"""No release is promoted that leaks, that nobody looked at, or whose verdict is about other
features or data."""

import json
from contextlib import nullcontext

import pytest
from homes import at_home, small_root
from small_release import small_rows

from tasks.core.errors import LeakError, ReleaseError
from tasks.edges.registry import read_champion
from tasks.promote.__main__ import main
from tasks.release import write_manifest

FINDING = {
    "rule": "look_ahead",
    "feature": "z_mean_7",
    "says": "'z_mean_7' of series 'north' reads later steps.",
}


def changed(folder, **changes):
    path = folder / "leaks.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    write_manifest(folder)


@pytest.mark.parametrize(
    ("where", "spoil", "error", "words"),
    [
        (
            "models/release",
            lambda folder: changed(folder, findings=[FINDING]),
            LeakError,
            "promote ensemble: the leak gate has 1 finding.*\n.*'z_mean_7' of series 'north'",
        ),
        (
            "models/release/baseline",
            lambda folder: changed(folder, findings=[FINDING]),
            LeakError,
            "promote last_value: the leak gate has 1 finding",
        ),
        (
            "models/release",
            lambda folder: changed(folder, schema_hash="1" * 64),
            LeakError,
            "about schema_hash 111111111111, but here is",
        ),
        (
            "models/release",
            lambda folder: changed(folder, data_version="2" * 64),
            LeakError,
            "about data_version 222222222222, but here is 000000000000",
        ),
        (
            "models/release",
            lambda folder: ((folder / "leaks.json").unlink(), write_manifest(folder)),
            ReleaseError,
            "leaks.json is missing",
        ),
    ],
)
def test_a_release_that_leaks_or_was_not_looked_at_is_refused(tmp_path, where, spoil, error, words):
    root = small_root(tmp_path / "root", small_rows(500))
    spoil(root / where)
    with at_home(tmp_path / "home"):
        with pytest.raises(error, match=words):
            main(root, deliver=nullcontext)
        assert read_champion("small") is None
    assert not (root / "data/decisions").exists()


def test_the_verdict_is_under_the_digest(tmp_path):
    root = small_root(tmp_path / "root", small_rows(500), challenger={"findings": [FINDING]})
    path = root / "models/release/leaks.json"
    path.write_text(path.read_text().replace("look_ahead", "overlooked"))
    with at_home(tmp_path / "home"), pytest.raises(ReleaseError, match=r"leaks\.json was altered"):
        main(root, deliver=nullcontext)
