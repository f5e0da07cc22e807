"""Sizes that code may have, and today's exceptions: the lists may only get shorter, the numbers
smaller."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tasks", "flows", "deployments", "tests")
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 400, 60
MODULES = {}  # lines of a module with more
FUNCTIONS = {}  # of a function with more
CLASSES: dict[str, int] = {}  # how many classes of the code have a name that is not theirs alone


@pytest.fixture(scope="module")
def texts():
    """Path from the root -> content, of every module of ours."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


@pytest.fixture(scope="module")
def definitions(texts):
    """(path, node) of every function and class outside the tests; to parse these, too, takes a
    second more."""
    code = [(path, ast.parse(text)) for path, text in texts.items() if not path.startswith("tests/")]
    return [(path, node) for path, tree in code for node in find_definitions(tree)]


def find_definitions(node):
    """All functions and classes in *node*."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child
        if isinstance(child, ast.stmt):  # no expression holds one
            yield from find_definitions(child)


def check_exceptions(found, allowed, rule):
    """Nothing new, nothing larger, and nothing listed that is no exception any more."""
    new, stale = sorted(found.keys() - allowed.keys()), sorted(allowed.keys() - found.keys())
    assert not new, f"{rule}, and {new} are new exceptions. Keep to the rule; the list takes no new entries."
    assert not stale, f"{rule}, and {stale} keep to it now. Take them off the list."
    assert {name: n for name, n in found.items() if n > allowed[name]} == {}, f"{rule}, and these have grown."


def test_modules_are_short(texts):
    found = {path: n for path, text in texts.items() if (n := len(text.splitlines())) > MAX_MODULE_LINES}
    check_exceptions(found, MODULES, f"A module has at most {MAX_MODULE_LINES} lines")


def test_functions_are_short(definitions):
    functions = [(path, node) for path, node in definitions if not isinstance(node, ast.ClassDef)]
    n_lines = {f"{path}:{node.name}": node.end_lineno - node.lineno + 1 for path, node in functions}
    found = {name: n for name, n in n_lines.items() if n > MAX_FUNCTION_LINES}
    check_exceptions(found, FUNCTIONS, f"A function has at most {MAX_FUNCTION_LINES} lines")


def test_a_class_name_means_one_thing(definitions):
    n_of_name = Counter(node.name for _, node in definitions if isinstance(node, ast.ClassDef))
    found = {name: n for name, n in n_of_name.items() if n > 1}
    check_exceptions(found, CLASSES, "A class name means one thing in the whole project")
