"""The field's words: none of those that have a standard one, in names or in text.

`docs/glossary.md` has the standard words. A name is an identifier of the code; text is what
messages, docstrings and comments say.
"""

import ast
import io
import re
import tokenize
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
# (Path, name or word) that stay, and why
KEPT = {
    ("flows/_artifacts.py", "picture"),  # part of a key by which Prefect's UI has an artifact's history
    ("deployments/cli/proxy.py", "drain"),  # HAProxy's word for the state of a replica, here and below
    ("deployments/ops/proxy.py", "drain_replica"),
    ("tasks/core/reports/feed.py", "at"),  # a key of status and event files, which later versions read
    ("tasks/core/reports/feed.py", "marks"),  # a key of window.json, which later versions read
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


def list_words(text):
    """(Line, word) of each word of ours in the strings and comments of *text*."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind in {"STRING", "COMMENT"} or kind.startswith("FSTRING"):
            yield from ((token.start[0], word) for word in sorted(set(TEXT.findall(token.string))))


def test_no_name_has_a_word_of_ours_where_the_field_has_one(texts):
    found = [
        f"{path}: {name}: {standard}"
        for path, text in texts.items()
        for name in sorted(set(iterate_names(ast.parse(text))))
        for standard in [WHOLE_NAMES.get(name), *(NAMES.get(word) for word in split_name(name))]
        if standard and (path, name) not in KEPT
    ]
    assert found == []


def test_no_text_has_a_word_of_ours_where_the_field_has_one(texts):
    found = [
        f"{path}:{line}: {word}"
        for path, text in texts.items()
        for line, word in list_words(text)
        if (path, word.lower()) not in KEPT
    ]
    assert found == []


def test_what_is_kept_is_still_there(texts):
    there = {
        (path, name.lower())
        for path in {path for path, _ in KEPT}
        for name in [*iterate_names(ast.parse(texts[path])), *(word for _, word in list_words(texts[path]))]
    }
    assert there >= KEPT
