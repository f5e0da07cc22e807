"""The field's words: none of those that have a standard one, in names or in text.

`docs/glossary.md` has the standard words. A name is an identifier of the code; text is what
messages, docstrings and comments say.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tasks", "flows", "deployments")
# Word in a name -> what the field calls it
NAMES = {
    "aid": "hooks",
    "ask": "request",
    "beat": "heartbeat",
    "beside": "alongside",
    "blend": "ensemble",
    "brings": "marginal_contribution",
    "door": "command",
    "drain": "catch_up",
    "forever": "run_loop",
    "ground": "context",
    "grown": "fitted",
    "laid": "gridded",
    "lay": "align",
    "lifeline": "parent_watch",
    "mark": "offset, checkpoint",
    "marks": "offsets",
    "played": "replayed",
    "preamble": "normalizer",
    "refuse": "check",
    "said": "message, report",
    "standing": "loaded release",
    "teller": "reporter",
    "tell": "report",
    "told": "report",
    "tidied": "compacted",
    "tidy": "compact",
    "till": "deadline",
    "walker": "cursor",
    "weigh": "weighted_average",
    "yardstick": "scaling_error",
}
# A whole name -> what the field calls it; as a part of a longer name these are plain English
# Of a room that still has some; only down
NAMES_LEFT = {
    "deployments/forecaster": 11,
    "tasks/core": 2,
    "tasks/ensemble": 16,
    "tasks/explain": 1,
    "tasks/ingest": 6,
    "tasks/package": 1,
}
TEXT_LEFT = {
    "deployments/forecaster": 21,
    "flows/_artifacts.py": 2,
    "tasks/ensemble": 12,
    "tasks/ingest": 2,
}
WHOLE_NAMES = {
    "at": "index, position, cutoff",
    "how": "combination",
    "look": "inspect",
    "own": "own_params: say own what",
    "say": "log, report",
    "until": "deadline, end",
}
TEXT = re.compile(
    r"\b(whoever|somebody|nobody|anybody|stands|stood|lies|lay|beside|anew|afresh|mend(?:s|ed)?|lacks|"
    r"says? nothing|c[oa]mes? true|tells? apart|told apart|dearest|at once|speaks?|spoke|of the same law|"
    r"yardsticks?|pictures?|lifeline|aloud|nought|forever)\b",
    re.IGNORECASE,
)
# (Path, word) of texts that keep the word, and why
KEPT = {
    ("flows/_artifacts.py", "picture"),  # part of a key by which Prefect's UI has an artifact's history
}


def iterate_names(tree):
    """Each name that *tree* gives to something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def split_name(name):
    """`FitContext` and `fit_context` -> fit, context."""
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


@pytest.fixture(scope="module")
def texts():
    """Path from the root -> content, of the code."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def test_names_are_split_into_words():
    assert split_name("_FitContext") == {"fit", "context"}
    assert split_name("MAX_ROWS") == {"max", "rows"}


def count_rooms(paths):
    """Findings by room, `tasks/core` for example."""
    return Counter("/".join(path.split("/")[:2]) for path in paths)


def test_no_name_has_a_word_of_ours_where_the_field_has_one(texts):
    found = [
        (path, f"{path}: {name}: {standard}")
        for path, text in texts.items()
        for name in sorted(set(iterate_names(ast.parse(text))))
        for standard in [WHOLE_NAMES.get(name), *(NAMES.get(word) for word in split_name(name))]
        if standard
    ]
    check_rooms(found, NAMES_LEFT)


def test_no_text_has_a_word_of_ours_where_the_field_has_one(texts):
    found = []
    for path, text in texts.items():
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = tokenize.tok_name[token.type]
            if kind in {"STRING", "COMMENT"} or kind.startswith("FSTRING"):
                found += [
                    (path, f"{path}:{token.start[0]}: {word}") for word in set(TEXT.findall(token.string))
                ]
    check_rooms(found, TEXT_LEFT)


def check_rooms(found, left):
    """A room that is not in *left* has none, the others as many at most; the lists only shrink."""
    counts = count_rooms(path for path, _ in found)
    worse = {room for room, n in counts.items() if n > left.get(room, 0)}
    assert [line for path, line in found if count_rooms([path]).keys() & worse] == []
    assert {room: n for room, n in left.items() if counts[room] < n} == {}, "Make these numbers smaller."
