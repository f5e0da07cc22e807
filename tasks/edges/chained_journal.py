"""An append-only journal whose lines name the one before, so that a changed past is found.

Each line is a JSON object with two keys of its own: `previous`, the `hash` of the line before
(empty at the first), and `hash`, the sha256 of the line's other keys. Lines from before a journal
was chained have neither and stand only at its start; the first chained line names the sha256 of all
of them. A chain does not show that lines are missing at its end.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tasks.core.errors import JournalError
from tasks.edges.files import sync_file

Line = dict[str, Any]


class JournalEnd(NamedTuple):
    """How far a journal has been read. hash: that the next line names."""

    n_bytes: int = 0
    n_lines: int = 0
    hash: str = ""


START = JournalEnd()


def append_line(path: Path, entry: Mapping[str, Any], end: JournalEnd = START) -> None:
    """Append *entry*, whose values are JSON's, and sync; the caller holds a lock of the journal.

    What a kill left of a last line is removed before. Raises JournalError when the past after *end*
    does not verify.
    """
    _, found = read_further(path, end)
    body = {**entry, "previous": found.hash}
    if path.exists() and found.n_bytes < path.stat().st_size:
        os.truncate(path, found.n_bytes)
    with path.open("a") as handle:
        handle.write(json.dumps({**body, "hash": _compute_hash(body)}, sort_keys=True) + "\n")
    sync_file(path)


def read_lines(path: Path) -> list[Line]:
    """The entries of the journal, oldest first, without the chain's keys; none without a file.

    A last line that a kill cut off counts as not written. Raises JournalError when a line was
    changed, removed from the middle, or put in.
    """
    return read_further(path, START)[0]


def read_further(path: Path, end: JournalEnd) -> tuple[list[Line], JournalEnd]:
    """`read_lines` after *end*, and the new end.

    end: START, or one that was returned for this file; then all of its lines are chained.
    """
    if not path.exists():
        return [], START
    with path.open("rb") as handle:
        handle.seek(end.n_bytes)
        content = handle.read()
    whole = content[: content.rfind(b"\n") + 1]
    entries, previous = _verify(path, whole, end)
    return entries, JournalEnd(end.n_bytes + len(whole), end.n_lines + len(entries), previous)


def _verify(path: Path, content: bytes, end: JournalEnd) -> tuple[list[Line], str]:
    """(entries, hash that the next line names) of what comes after *end*."""
    entries: list[Line] = []
    before_chain, previous, is_chained = hashlib.sha256(), end.hash, end.n_lines > 0
    for number, raw in enumerate(content.splitlines(keepends=True), end.n_lines + 1):
        try:
            line: Line = json.loads(raw)
        except ValueError as error:
            raise _build_error(path, number, "is no JSON") from error
        found, named = line.pop("hash", None), line.get("previous")
        if found is None and not is_chained:
            before_chain.update(raw)
            previous = before_chain.hexdigest()
        elif named != previous:
            raise _build_error(path, number, "does not name the line before it")
        elif found != _compute_hash(line):
            raise _build_error(path, number, "was changed after it was written")
        else:
            is_chained, previous = True, found
        line.pop("previous", None)
        entries.append(line)
    return entries, previous


def _compute_hash(body: Line) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _build_error(path: Path, number: int, fact: str) -> JournalError:
    return JournalError(
        f"Line {number} of {path} {fact}: each line names the hash of the one before it, and the past is not"
        " changed. Restore the file from a backup; until then nothing is added to it."
    )
