"""What a GraphQL query may cost, computed before it is executed.

A field costs one, and so often what is below it as it may have items: `first` of a page, else
ITEMS. Fragments are counted where they are spread.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from graphql import DocumentNode, GraphQLError
from graphql.language import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
)

MAX_CHARACTERS, MAX_TOKENS = 10_000, 1_000
MAX_DEPTH = 15  # as the introspection query of common tools has
MAX_COST = 25_000  # .3 s; that query has 22,088
FIRST = 20  # of a page without `first`
ITEMS = 8  # of any other list: quantiles, steps
LISTS = {"steps", "quantiles", "series", "alarms", "models", "types", "fields", "inputFields", "args"}
PAGES = {"predictions", "allSeries"}


class QueryCost(NamedTuple):
    """cost: fields that may be computed. depth: of the deepest one."""

    cost: int
    depth: int


def check_cost(document: DocumentNode, variables: Mapping[str, Any]) -> None:
    """Raise GraphQLError for a valid document beyond the limits. variables: of its operation.

    Introspection of introspection is refused by graphql-core's own rule.
    """
    fragments = {
        node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
    }
    known: dict[str, QueryCost] = {}
    for node in document.definitions:
        if isinstance(node, OperationDefinitionNode):
            found = _sum_selections(node.selection_set, fragments, known, variables)
            if found.depth > MAX_DEPTH or found.cost > MAX_COST:
                raise GraphQLError(
                    f"The query has depth {found.depth} and may compute {found.cost:,} fields. A query has at"
                    f" most depth {MAX_DEPTH} and {MAX_COST:,} fields. Ask for fewer items (`first`), or in"
                    " several queries."
                )


def _sum_selections(
    selected: SelectionSetNode | None,
    fragments: Mapping[str, FragmentDefinitionNode],
    known: dict[str, QueryCost],
    variables: Mapping[str, Any],
) -> QueryCost:
    cost, depth = 0, 0
    for node in () if selected is None else selected.selections:
        if isinstance(node, FieldNode):
            below = _sum_selections(node.selection_set, fragments, known, variables)
            part = QueryCost(1 + _count_items(node, variables) * below.cost, 1 + below.depth)
        elif isinstance(node, FragmentSpreadNode):
            name = node.name.value
            if name not in known:
                known[name] = _sum_selections(fragments[name].selection_set, fragments, known, variables)
            part = known[name]
        else:
            assert isinstance(node, InlineFragmentNode), "the three kinds of selections"
            part = _sum_selections(node.selection_set, fragments, known, variables)
        cost, depth = cost + part.cost, max(depth, part.depth)
    return QueryCost(cost, depth)


def _count_items(node: FieldNode, variables: Mapping[str, Any]) -> int:
    name = node.name.value
    if name not in PAGES:
        return ITEMS if name in LISTS else 1
    for argument in node.arguments:
        if argument.name.value == "first":
            value = argument.value
            if isinstance(value, IntValueNode):
                return max(int(value.value), 1)
            if isinstance(value, VariableNode) and isinstance(given := variables.get(value.name.value), int):
                return max(given, 1)
    return FIRST
