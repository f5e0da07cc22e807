"""The drawn picture of the rooms is that of the import contract; the README names real tests."""

import re
from pathlib import Path

import rooms

ROOT = Path(__file__).resolve().parents[2]


def test_the_picture_shows_the_layers_of_the_import_contract_in_their_order():
    drawn = rooms.DRAWING.read_text()
    assert [layer.split() for layer in re.findall(r'data-layer="([^"]+)"', drawn)] == rooms.read_layers()
    assert sorted(re.findall(r'data-room="([^"]+)"', drawn)) == sorted(
        room for layer in rooms.read_layers() for room in layer
    )


def test_the_picture_is_up_to_date():
    assert rooms.DRAWING.read_text() == rooms.draw(), "Draw it again: `python tests/support/rooms.py`."


def test_every_package_says_its_purpose_in_one_line():
    packages = [room for layer in rooms.read_layers() for room in layer]
    assert {p: rooms.read_purpose(p) for p in packages if not rooms.read_purpose(p).endswith(".")} == {}


def test_each_promise_of_the_readme_names_tests_that_exist_or_is_not_kept_yet():
    rows = re.findall(r"^\| (P\d+) \|.*\|(.*)\|$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert [name for name, _ in rows] == [f"P{i}" for i in range(1, 13)]
    for name, held in rows:
        tests = re.findall(r"`(tests/[a-z_/]+\.py)`", held)
        assert tests or "not yet" in held, name
        assert all((ROOT / test).is_file() for test in tests), name
