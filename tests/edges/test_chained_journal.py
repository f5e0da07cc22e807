"""The journal's law: any change of the past is found, and a torn end is not a past."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import JournalError
from tasks.edges.chained_journal import append_line, read_lines


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"digest": "old"}) + "\n" + json.dumps({"digest": "older"}) + "\n")
    for number in range(3):
        append_line(path, {"digest": f"d{number}"})
    return path


def test_lines_come_back_in_order_also_those_from_before_the_chain(journal):
    assert [line["digest"] for line in read_lines(journal)] == ["old", "older", "d0", "d1", "d2"]
    assert all(set(line) == {"digest"} for line in read_lines(journal))
    assert read_lines(journal.with_name("none.jsonl")) == []


def test_a_line_that_a_kill_cut_off_counts_as_not_written(journal):
    whole = journal.read_bytes()
    append_line(journal, {"digest": "torn"})
    added = journal.read_bytes()[len(whole) :]
    for n_bytes in range(len(added)):
        journal.write_bytes(whole + added[:n_bytes])
        assert len(read_lines(journal)) == 5
    append_line(journal, {"digest": "next"})
    assert [line["digest"] for line in read_lines(journal)][-2:] == ["d2", "next"]


@given(st.data())
def test_any_changed_removed_added_or_exchanged_line_is_found(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("chain") / "journal.jsonl"
    for number in range(4):
        append_line(path, {"digest": f"d{number}", "n": number})
    lines = path.read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0, 2))
    kind = data.draw(st.sampled_from(["change", "remove", "repeat", "exchange", "unchained", "garbage"]))
    line = json.loads(lines[at])
    if kind == "change":
        lines[at] = json.dumps({**line, "n": 9}, sort_keys=True).encode() + b"\n"
    elif kind == "remove":
        del lines[at]
    elif kind == "repeat":
        lines.insert(at, lines[at])
    elif kind == "exchange":
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    elif kind == "unchained":
        lines.insert(at + 1, b'{"digest": "put in"}\n')
    else:
        lines[at] = b"garbage\n"
    path.write_bytes(b"".join(lines))
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"is no JSON|line before|was changed"):
        read_lines(path)
    with pytest.raises(JournalError):
        append_line(path, {"digest": "more"})
    assert path.read_bytes() == before
