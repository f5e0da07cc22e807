"""The operations of a formula: numpy on arrays, nodes of an ONNX graph on a GraphValue.

A forecaster defines its forecast once, so that the served forecast is the scored one. Everything is
float32. Elementwise operations give the same bits in both; matrix products may differ in their last
bits, so no comparison may follow one (no tree below a product).

The functions that nets use also compute in torch, with gradients, on tensors: a net is trained by
the same lines that forecast. They import torch only for a tensor.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

OPSET, ML_OPSET, IR_VERSION = 18, 3, 10  # what onnxruntime 1.24, the oldest in our range, reads
_NORM_EPSILON = 1e-5  # torch's and ONNX's default
Value: TypeAlias = Any  # np.ndarray of float32, or GraphValue; in training torch.Tensor


class GraphBuilder:
    """Nodes and constants in the order of the formula, so that one formula gives the same bytes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(
        self, op: str, *inputs: Any, domain: str = "", n_outputs: int = 1, **attributes: Any
    ) -> "GraphValue":
        """Add a node and return its one output, or the first of *n_outputs*."""
        from onnx import helper

        name = f"{op.lower()}_{len(self.nodes)}"
        names = [name, *(f"{name}_{i}" for i in range(1, n_outputs))]
        self.nodes.append(
            helper.make_node(op, [self._resolve_name(i) for i in inputs], names, domain=domain, **attributes)
        )
        return GraphValue(self, name)

    def constant(self, array: np.ndarray) -> "GraphValue":
        """*array* in its own type; as an input of a node, an array becomes float32."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return GraphValue(self, name)

    def _resolve_name(self, value: Any) -> str:
        if isinstance(value, GraphValue):
            return value.name
        array = np.asarray(value)
        return self.constant(array if array.dtype == np.int64 else array.astype(np.float32)).name


class GraphValue:
    """The output of a node, with the operators of an array."""

    def __init__(self, graph: GraphBuilder, name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Any) -> "GraphValue":
        return self.graph.node("Add", self, other)

    def __sub__(self, other: Any) -> "GraphValue":
        return self.graph.node("Sub", self, other)

    def __mul__(self, other: Any) -> "GraphValue":
        return self.graph.node("Mul", self, other)

    def __truediv__(self, other: Any) -> "GraphValue":
        return self.graph.node("Div", self, other)

    def __matmul__(self, other: Any) -> "GraphValue":
        return self.graph.node("MatMul", self, other)


def log(x: Value) -> Value:
    """Natural logarithm of x, which is positive."""
    return x.graph.node("Log", x) if isinstance(x, GraphValue) else np.log(x)


def sin(x: Value) -> Value:
    """Sine of x, in radians."""
    return x.graph.node("Sin", x) if isinstance(x, GraphValue) else np.sin(x)


def cos(x: Value) -> Value:
    """Cosine of x, in radians."""
    return x.graph.node("Cos", x) if isinstance(x, GraphValue) else np.cos(x)


def fmod(x: Value, by: float) -> Value:
    """Remainder of x divided by *by*, with the sign of x."""
    return (
        x.graph.node("Mod", x, np.float32(by), fmod=1)
        if isinstance(x, GraphValue)
        else np.fmod(x, np.float32(by))
    )


def take(x: Value, columns: Sequence[int]) -> Value:
    """The *columns* of x in that order; a column may be repeated."""
    if isinstance(x, GraphValue):
        return x.graph.node("Gather", x, np.array(columns, dtype=np.int64), axis=1)
    start, stop = columns[0], columns[0] + len(columns)
    return (
        x[:, start:stop] if list(columns) == list(range(start, stop)) else x[:, list(columns)]
    )  # neighbours need no copy, and hundreds of lags are neighbours


def fill_nan(x: Value, instead: Value) -> Value:
    """x with *instead* where it is NaN."""
    if isinstance(x, GraphValue):
        return x.graph.node("Where", x.graph.node("IsNaN", x), instead, x)
    if isinstance(x, np.ndarray):
        return np.where(np.isnan(x), instead, x)
    import torch

    return x.where(~x.isnan(), torch.as_tensor(instead))


def maximum(x: Value, floor: np.ndarray) -> Value:
    """The larger of x and *floor*."""
    if isinstance(x, GraphValue):
        return x.graph.node("Max", x, floor)
    return np.maximum(x, floor) if isinstance(x, np.ndarray) else x.maximum(floor)


def greater(x: Value, edges: np.ndarray) -> Value:
    """(n, E) of x (n, 1): 1 where it is above the edge, else 0."""
    if isinstance(x, GraphValue):
        return x.graph.node("Cast", x.graph.node("Greater", x, edges), to=1)  # 1: float32
    return (x > edges).astype(np.float32)


def relu(x: Value) -> Value:
    """x where it is positive, else 0."""
    if isinstance(x, GraphValue):
        return x.graph.node("Relu", x)
    return np.maximum(x, np.float32(0)) if isinstance(x, np.ndarray) else x.relu()


def softmax(x: Value) -> Value:
    """Shares that sum to 1 along the last axis."""
    if isinstance(x, GraphValue):
        return x.graph.node("Softmax", x, axis=-1)
    if not isinstance(x, np.ndarray):
        return x.softmax(-1)
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def layer_norm(x: Value, gain: Value, shift: Value) -> Value:
    """x with mean 0 and variance 1 along its last axis, times *gain*, plus *shift*, both (K,).

    Source: Ba et al. 2016, arXiv:1607.06450.
    """
    if isinstance(x, GraphValue):
        return x.graph.node("LayerNormalization", x, gain, shift, axis=-1, epsilon=_NORM_EPSILON)
    if not isinstance(x, np.ndarray):
        import torch

        return torch.nn.functional.layer_norm(x, gain.shape, gain, shift, _NORM_EPSILON)
    centred = x - x.mean(axis=-1, keepdims=True)
    return (
        centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(_NORM_EPSILON)) * gain
        + shift
    )


def reshape(x: Value, *shape: int) -> Value:
    """Each row of x in another *shape*, which does not include the n rows."""
    # 0: as many rows as in x
    return (
        x.graph.node("Reshape", x, np.array([0, *shape]))
        if isinstance(x, GraphValue)
        else x.reshape(x.shape[0], *shape)  # a trace of torch keeps the shape open, but not `len`
    )


def transpose(x: Value, *order: int) -> Value:
    """The axes of x in another *order*, all counted from 0."""
    if isinstance(x, GraphValue):
        return x.graph.node("Transpose", x, perm=list(order))
    return x.transpose(order) if isinstance(x, np.ndarray) else x.permute(*order)


def take_last_step(x: Value, n_steps: int) -> Value:
    """Of n_steps steps (n, n_steps, K) the last: (n, K)."""
    return x.graph.node("Gather", x, np.array(n_steps - 1), axis=1) if isinstance(x, GraphValue) else x[:, -1]


def gru(x: Value, inner: Value, outer: Value, shift: Value, outer_shift: Value) -> Value:
    """States (n, L, K) of a gated recurrent unit along x (n, L, I), from 0.

    inner: (3K, I), outer: (3K, K), shift and outer_shift: (3K,), the gates reset, update, candidate
    stacked in torch's order. The first state is the one after step 1.
    Source: Cho et al. 2014, arXiv:1406.1078, with the reset after the product, as cuDNN and torch
    compute it.
    """
    if isinstance(x, GraphValue):
        gates = (_build_onnx_gates(a, (1, 0, 2)) for a in (inner, outer))
        shifts = np.concatenate([_build_onnx_gates(a, (1, 0, 2)) for a in (shift, outer_shift)], axis=1)
        return _add_recurrent_node(
            "GRU", x, *gates, shifts, hidden_size=outer.shape[1], linear_before_reset=1
        )
    if not isinstance(x, np.ndarray):
        return _run_torch("gru", x, inner, outer, shift, outer_shift)
    k = outer.shape[1]
    out = np.empty((*x.shape[:2], k), dtype=np.float32)
    state = np.zeros((len(x), k), dtype=np.float32)
    for step in range(x.shape[1]):
        fresh, kept = x[:, step] @ inner.T + shift, state @ outer.T + outer_shift
        reset, update = (
            _sigmoid(fresh[:, :k] + kept[:, :k]),
            _sigmoid(fresh[:, k : 2 * k] + kept[:, k : 2 * k]),
        )
        candidate = np.tanh(fresh[:, 2 * k :] + reset * kept[:, 2 * k :])
        out[:, step] = state = candidate + update * (state - candidate)
    return out


def lstm(x: Value, inner: Value, outer: Value, shift: Value, outer_shift: Value) -> Value:
    """States (n, L, K) of a long short-term memory along x (n, L, I), from state and cell 0.

    inner: (4K, I), outer: (4K, K), shift and outer_shift: (4K,), the gates input, forget, cell,
    output stacked in torch's order.
    Source: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, with the forget gate of
    Gers et al. 2000.
    """
    if isinstance(x, GraphValue):
        gates = (_build_onnx_gates(a, (0, 3, 1, 2)) for a in (inner, outer))
        shifts = np.concatenate([_build_onnx_gates(a, (0, 3, 1, 2)) for a in (shift, outer_shift)], axis=1)
        return _add_recurrent_node("LSTM", x, *gates, shifts, hidden_size=outer.shape[1])
    if not isinstance(x, np.ndarray):
        return _run_torch("lstm", x, inner, outer, shift, outer_shift)
    k = outer.shape[1]
    out = np.empty((*x.shape[:2], k), dtype=np.float32)
    state = cell = np.zeros((len(x), k), dtype=np.float32)
    for step in range(x.shape[1]):
        gates = x[:, step] @ inner.T + shift + (state @ outer.T + outer_shift)
        enter, forget, give = (_sigmoid(gates[:, g * k : (g + 1) * k]) for g in (0, 1, 3))
        cell = forget * cell + enter * np.tanh(gates[:, 2 * k : 3 * k])
        out[:, step] = state = give * np.tanh(cell)
    return out


def _run_torch(unit: str, x: Any, *weights: Any) -> Any:
    import torch

    zero = x.new_zeros(1, x.shape[0], weights[1].shape[1])
    shape = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "bidirectional": False, "batch_first": True}
    return getattr(torch, unit)(
        x, zero if unit == "gru" else (zero, zero), list(weights), train=torch.is_grad_enabled(), **shape
    )[0]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """By the hyperbolic tangent, which cannot overflow."""
    return np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * x)


def _build_onnx_gates(stacked: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The stacked gates in ONNX's order, with its leading axis for the direction."""
    return np.concatenate([np.split(stacked, len(order))[gate] for gate in order])[None]


def _add_recurrent_node(op: str, x: GraphValue, *constants: np.ndarray, **attributes: Any) -> GraphValue:
    """One node for any number of steps, with the axes in ONNX's order: steps, direction, rows."""
    states = x.graph.node(op, transpose(x, 1, 0, 2), *constants, **attributes)
    return transpose(x.graph.node("Squeeze", states, np.array([1])), 1, 0, 2)


def clip(x: Value, bound: float) -> Value:
    """x within -bound..bound."""
    low, high = np.float32(-bound), np.float32(bound)
    if isinstance(x, GraphValue):
        return x.graph.node("Clip", x, low, high)
    return np.clip(x, low, high) if isinstance(x, np.ndarray) else x.clamp(-bound, bound)


def join_columns(parts: Sequence[Value]) -> Value:
    """All parts concatenated along columns."""
    first = parts[0]
    if isinstance(first, GraphValue):
        return first.graph.node("Concat", *parts, axis=1)
    if isinstance(first, np.ndarray):
        return np.concatenate(parts, axis=1)
    import torch

    return torch.cat(list(parts), dim=1)


def matmul_by_row(x: Value, matrices: Value, n_columns: int, n_steps: int) -> Value:
    """(n, n_steps): each row of x (n, n_columns) times its own matrix.

    matrices: (n, n_columns * n_steps), one flat matrix in each row.
    """
    if not isinstance(x, GraphValue):
        return (x[:, None, :] @ matrices.reshape(-1, n_columns, n_steps))[:, 0, :]
    node = x.graph.node
    product = node(
        "MatMul",
        node("Unsqueeze", x, np.array([1])),
        node("Reshape", matrices, np.array([-1, n_columns, n_steps])),
    )
    return node("Reshape", product, np.array([-1, n_steps]))


def build_step_rows(shared: Value, by_step: Sequence[Value], n_columns: int, n_steps: int) -> Value:
    """A row for each (row, step): *shared*, the step 1..n_steps, a column of each of *by_step*.

    shared: (n, n_columns).
    by_step: at least one (n, n_steps), finite.
    Returns (n * n_steps, n_columns + 1 + len(by_step)).
    """
    steps = np.arange(1, n_steps + 1, dtype=np.float32)
    if not isinstance(shared, GraphValue):
        return np.column_stack(
            [np.repeat(shared, n_steps, axis=0), np.tile(steps, len(shared)), *(np.ravel(v) for v in by_step)]
        )
    node = shared.graph.node
    repeated = node("Expand", node("Unsqueeze", shared, np.array([1])), np.array([1, n_steps, 1]))
    each = [node("Unsqueeze", v, np.array([2])) for v in by_step]
    step = each[0] * np.float32(0) + steps.reshape(1, -1, 1)
    return node(
        "Reshape", node("Concat", repeated, step, *each, axis=2), np.array([-1, n_columns + 1 + len(by_step)])
    )


def write_graph(path: Path, n_columns: int, n_steps: int, formula: Any) -> None:
    """Write the graph of *formula* from `x` (n, n_columns) to `z_hat` (n, n_steps).

    Both float32, for any n; same formula, same bytes.
    """
    from onnx import TensorProto, checker, helper

    graph = GraphBuilder()
    graph.node("Identity", formula(GraphValue(graph, "x")))
    graph.nodes[-1].output[0] = "z_hat"
    graph_input = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", n_columns])
    graph_output = helper.make_tensor_value_info("z_hat", TensorProto.FLOAT, ["n", n_steps])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    graph_proto = helper.make_graph(graph.nodes, "forecaster", [graph_input], [graph_output], graph.constants)
    model = helper.make_model(
        graph_proto, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tidemill"
    )
    checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
