"""A model of a checkout's own that imports the old names still loads, and is told the new ones."""

from importlib import import_module

import pytest

from tasks.forecasters import moved
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.parts.normalizer import select_last_values

OLD = ("formula", "arithmetic", "subgraph", "residuals", "preamble", "trees")


def test_old_names_give_what_they_named_and_warn():
    with pytest.warns(
        DeprecationWarning, match="formula.Formula is tasks.forecasters.graph.graph_definition.Formula now"
    ):
        from tasks.forecasters.formula import Formula as OldFormula
    with pytest.warns(DeprecationWarning, match="is removed in the next release"):
        from tasks.forecasters.preamble import last_values
    assert OldFormula is Formula
    assert last_values is select_last_values


@pytest.mark.parametrize("name", OLD)
def test_every_old_name_is_there(name):
    old = import_module(f"tasks.forecasters.{name}")
    for old_name in old.NAMES:
        with pytest.warns(DeprecationWarning, match="is removed in the next release"):
            assert getattr(old, old_name) is not None


def test_a_name_that_never_was_is_refused():
    get = moved.find_moved("tasks.forecasters.formula", "tasks.forecasters.graph.graph_definition", {})
    with pytest.raises(AttributeError, match="has no 'Nothing'; it has moved to"):
        get("Nothing")
