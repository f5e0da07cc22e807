"""Has moved to `tasks.forecasters.graph.graph_ops`; this name works for one release."""

from tasks.forecasters.moved import find_moved

NAMES = {
    "sine": "sin",
    "cosine": "cos",
    "remainder": "fmod",
    "fill": "fill_nan",
    "at_least": "maximum",
    "above": "greater",
    "newest": "take_last_step",
    "join": "join_columns",
    "row_by_row": "matmul_by_row",
    "by_step": "build_step_rows",
    "Wire": "GraphValue",
    "Graph": "GraphBuilder",
}
__getattr__ = find_moved(__name__, "tasks.forecasters.graph.graph_ops", NAMES)
