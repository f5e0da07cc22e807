"""How our modules import each other: never in a circle, never a command.

Imports in functions count, too.
"""

import grimp
import pytest

PACKAGES = ("flows", "tasks", "deployments")


@pytest.fixture(scope="module")
def imports():
    """Module -> those of ours that it imports."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def find_circles(imports):
    """What is left of *imports* when modules that import none, or that none imports, go one by
    one."""
    left = dict(imports)
    while True:
        imported = set().union(*left.values()) if left else set()
        ends = {m for m, others in left.items() if m not in imported or not others & left.keys()}
        if not ends:
            return {module: sorted(others & left.keys()) for module, others in sorted(left.items())}
        for module in ends:
            del left[module]


def test_circles_are_found():
    assert find_circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": set()}) == {
        "b": ["c"],
        "c": ["b"],
    }


def test_no_modules_import_each_other_in_a_circle(imports):
    assert len(imports) > 200
    assert find_circles(imports) == {}


def test_no_module_imports_a_command(imports):
    commands = {module for module in imports if module.endswith(".__main__")}
    assert {module: others & commands for module, others in imports.items() if others & commands} == {}
