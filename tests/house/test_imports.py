"""How our modules import each other: never in a circle, and never a command. Imports inside functions count as well."""

import grimp
import pytest

PACKAGES = ("flows", "tasks", "deployments")


@pytest.fixture(scope="module")
def imports():
    """Module -> those of ours that it imports."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def find_circles(imports):
    """What is left of *imports* when modules that import none of the others, or are imported by none of them, are taken away one after the other."""
    left = dict(imports)
    while True:
        imported = set().union(*left.values()) if left else set()
        ends = {module for module, others in left.items() if module not in imported or not others & left.keys()}
        if not ends:
            return {module: sorted(others & left.keys()) for module, others in sorted(left.items())}
        for module in ends:
            del left[module]


def test_circles_are_found():
    assert find_circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": set()}) == {"b": ["c"], "c": ["b"]}


def test_no_modules_import_each_other_in_a_circle(imports):
    assert len(imports) > 200
    assert find_circles(imports) == {}


def test_no_module_imports_a_command(imports):
    assert [(module, other) for module, others in imports.items() for other in others if other.endswith(".__main__")] == []
