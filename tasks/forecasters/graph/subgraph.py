"""A part of a formula that is not numpy (trees, a fitted estimator), as a small ONNX graph.

On arrays onnxruntime computes it, on a GraphValue its nodes are copied into the forecaster's graph.
Both run the same kernels over the same nodes and give the same bits, so that a recursive forecast
can go through such a part again.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from tasks.forecasters.graph.graph_ops import IR_VERSION, ML_OPSET, OPSET, GraphValue, Value


def run_subgraph(graph: np.ndarray, x: Value) -> Value:
    """The output (n, K) of the serialised *graph* for its input x (n, F), float32.

    graph: bytes as uint8, see `build_subgraph`.
    """
    if isinstance(x, GraphValue):
        return _add_subgraph(graph.tobytes(), x)
    out: np.ndarray = _open_session(graph.tobytes()).run(
        None, {"x": np.ascontiguousarray(x, dtype=np.float32)}
    )[0]
    return out


def build_subgraph(nodes: list[Any], constants: list[Any], n_columns: int, output: str) -> np.ndarray:
    """The graph of *nodes* from `x` (n, n_columns) to *output* (n, K) as bytes (uint8).

    An array, so that it is saved as all learned numbers are.
    """
    from onnx import TensorProto, checker, helper

    graph_input = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", n_columns])
    graph_output = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", None])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    graph_proto = helper.make_graph(nodes, "part", [graph_input], [graph_output], constants)
    model = helper.make_model(
        graph_proto, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tidemill"
    )
    checker.check_model(model)
    return np.frombuffer(model.SerializeToString(deterministic=True), dtype=np.uint8)


def build_canonical_subgraph(model: bytes) -> np.ndarray:
    """A graph of another library as bytes (uint8), with names that depend on its order only.

    A converter's own names count on through the process.
    """
    import onnx

    graph = onnx.load_from_string(model).graph
    n_columns, output = graph.input[0].type.tensor_type.shape.dim[1].dim_value, graph.output[0].name
    names = {graph.input[0].name: "x"}
    _update_names(graph, "", names)
    return build_subgraph(list(graph.node), list(graph.initializer), n_columns, names[output])


def _add_subgraph(graph: bytes, x: GraphValue) -> GraphValue:
    """The graph's nodes applied to *x*, under names that are unique in the whole graph."""
    import onnx

    part = onnx.load_from_string(graph).graph
    names = {part.input[0].name: x.name}
    _update_names(part, f"part_{len(x.graph.nodes)}_", names)
    x.graph.nodes += part.node
    x.graph.constants += part.initializer
    return GraphValue(x.graph, names[part.output[0].name])


def _update_names(graph: Any, prefix: str, names: dict[str, str]) -> None:
    """Rename everything in *graph* by its position after *prefix*, also in the bodies of loops.

    names: old name: new name, of the values from outside; those of *graph* are added.
    """
    names[""] = ""  # an input that is left out
    for i, constant in enumerate(graph.initializer):
        names[constant.name] = constant.name = f"{prefix}c{i}"
    for i, node in enumerate(graph.node):
        node.input[:] = [names[name] for name in node.input]
        names |= {name: f"{prefix}n{i}_{k}" for k, name in enumerate(node.output) if name}
        node.output[:] = [names[name] for name in node.output]
        node.name = f"{prefix}n{i}"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _update_body_names(attribute.g, f"{prefix}n{i}_", dict(names))


def _update_body_names(body: Any, prefix: str, names: dict[str, str]) -> None:
    body.name = f"{prefix}body"
    for i, graph_input in enumerate(body.input):
        names[graph_input.name] = graph_input.name = f"{prefix}x{i}"
    _update_names(body, prefix, names)
    for graph_output in body.output:
        graph_output.name = names[graph_output.name]


@lru_cache(maxsize=8)
def _open_session(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # The order of a sum must not depend on the machine
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
