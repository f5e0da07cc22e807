"""Has moved to `tasks.forecasters.graph.graph_definition`; this name works for one release."""

from tasks.forecasters.moved import find_moved

NAMES = {
    "linear_algebra_on_one_thread": "apply_one_blas_thread",
}
__getattr__ = find_moved(__name__, "tasks.forecasters.graph.graph_definition", NAMES)
