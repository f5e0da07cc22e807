"""One formula, two evaluations: on arrays it computes in numpy, on a Wire it writes the nodes of an ONNX graph.

So a forecaster states its forecast once, and what is served is what was scored. Everything is float32. Elementwise operations give the
same bits in both; matrix products may differ in their last bits, so nothing that follows one may compare (no tree below a product).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

OPSET, ML_OPSET, IR_VERSION = 18, 3, 10  # what onnxruntime 1.24, the oldest in our range, reads
Value: TypeAlias = Any  # np.ndarray of float32, or Wire


class Graph:
    """Nodes and constants in the order in which a formula made them, so that the same formula gives the same bytes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, op: str, *inputs: Any, domain: str = "", **attributes: Any) -> "Wire":
        """Add a node; its one output."""
        from onnx import helper  # noqa: PLC0415  (0.3 s: predicting does without)

        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self._name_of(i) for i in inputs], [name], domain=domain, **attributes))
        return Wire(self, name)

    def _name_of(self, value: Any) -> str:
        if isinstance(value, Wire):
            return value.name
        from onnx import numpy_helper  # noqa: PLC0415  (as above)

        array = np.asarray(value)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array if array.dtype == np.int64 else array.astype(np.float32), name))
        return name


class Wire:
    """The output of a node, with the operators of an array."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Any) -> "Wire":
        return self.graph.node("Add", self, other)

    def __sub__(self, other: Any) -> "Wire":
        return self.graph.node("Sub", self, other)

    def __mul__(self, other: Any) -> "Wire":
        return self.graph.node("Mul", self, other)

    def __truediv__(self, other: Any) -> "Wire":
        return self.graph.node("Div", self, other)

    def __matmul__(self, other: Any) -> "Wire":
        return self.graph.node("MatMul", self, other)


def take(x: Value, columns: Sequence[int]) -> Value:
    """Columns of x, in the order given; a column may come several times."""
    if isinstance(x, Wire):
        return x.graph.node("Gather", x, np.array(columns, dtype=np.int64), axis=1)
    start, stop = columns[0], columns[0] + len(columns)
    return (
        x[:, start:stop] if list(columns) == list(range(start, stop)) else x[:, list(columns)]
    )  # neighbours need no copy, and hundreds of lags are neighbours


def fill(x: Value, instead: Value) -> Value:
    """x with *instead* where it is NaN."""
    return x.graph.node("Where", x.graph.node("IsNaN", x), instead, x) if isinstance(x, Wire) else np.where(np.isnan(x), instead, x)


def at_least(x: Value, floor: np.ndarray) -> Value:
    """The larger of x and *floor*; floor 0 is the rectifier of a net."""
    return x.graph.node("Max", x, floor) if isinstance(x, Wire) else np.maximum(x, floor)


def above(x: Value, edges: np.ndarray) -> Value:
    """(n, E) of x (n, 1): 1 where it lies above the edge, else 0."""
    if isinstance(x, Wire):
        return x.graph.node("Cast", x.graph.node("Greater", x, edges), to=1)  # 1: float32
    return (x > edges).astype(np.float32)


def clip(x: Value, bound: float) -> Value:
    """x within -bound..bound."""
    low, high = np.float32(-bound), np.float32(bound)
    return x.graph.node("Clip", x, low, high) if isinstance(x, Wire) else np.clip(x, low, high)


def join(parts: Sequence[Value]) -> Value:
    """Columns of all parts beside each other."""
    first = parts[0]
    return first.graph.node("Concat", *parts, axis=1) if isinstance(first, Wire) else np.concatenate(parts, axis=1)


def by_step(shared: Value, own: Value, n_columns: int, n_steps: int) -> Value:
    """A row for each (row, step): the columns of *shared*, the step 1..n_steps, and the step's own column of *own*.

    shared: (n, n_columns); own: (n, n_steps), finite. Returns (n * n_steps, n_columns + 2).
    """
    steps = np.arange(1, n_steps + 1, dtype=np.float32)
    if not isinstance(shared, Wire):
        return np.column_stack([np.repeat(shared, n_steps, axis=0), np.tile(steps, len(shared)), np.ravel(own)])
    node = shared.graph.node
    repeated = node("Expand", node("Unsqueeze", shared, np.array([1])), np.array([1, n_steps, 1]))
    own = node("Unsqueeze", own, np.array([2]))
    step = own * np.float32(0) + steps.reshape(1, -1, 1)
    return node("Reshape", node("Concat", repeated, step, own, axis=2), np.array([-1, n_columns + 2]))


def write_graph(path: Path, n_columns: int, n_steps: int, formula: Any) -> None:
    """Write the graph of *formula*: input `x` (n, n_columns), output `z_hat` (n, n_steps), both float32, n free; same formula, same bytes."""
    from onnx import TensorProto, checker, helper  # noqa: PLC0415  (0.3 s: predicting does without)

    graph = Graph()
    graph.node("Identity", formula(Wire(graph, "x")))
    graph.nodes[-1].output[0] = "z_hat"
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", n_columns])
    wanted = helper.make_tensor_value_info("z_hat", TensorProto.FLOAT, ["n", n_steps])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    whole = helper.make_graph(graph.nodes, "forecaster", [given], [wanted], graph.constants)
    model = helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tidemill")
    checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
