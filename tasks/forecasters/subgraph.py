"""Has moved to `tasks.forecasters.graph.subgraph`; this name works for one release."""

from tasks.forecasters.moved import find_moved

NAMES = {
    "apply": "run_subgraph",
    "packed": "build_subgraph",
    "canonical": "build_canonical_subgraph",
}
__getattr__ = find_moved(__name__, "tasks.forecasters.graph.subgraph", NAMES)
