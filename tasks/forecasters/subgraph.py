"""A part of a formula that numpy cannot say (trees, a fitted estimator), kept as a small ONNX graph of its own.

On arrays onnxruntime computes it, on a Wire its nodes are copied into the forecaster's graph. So both run the same kernels over the same
nodes and give the same bits, and a forecast may follow such a part and be compared again, as a recursive one is.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from tasks.forecasters.arithmetic import IR_VERSION, ML_OPSET, OPSET, Value, Wire


def apply(graph: np.ndarray, x: Value) -> Value:
    """The one output (n, K) of the serialised *graph* (uint8, see `packed`) for its one input x (n, F), float32."""
    if isinstance(x, Wire):
        return _copied(graph.tobytes(), x)
    out: np.ndarray = _session(graph.tobytes()).run(None, {"x": np.ascontiguousarray(x, dtype=np.float32)})[0]
    return out


def packed(nodes: list[Any], constants: list[Any], n_columns: int, output: str) -> np.ndarray:
    """The graph of *nodes* from `x` (n, n_columns) to *output* (n, K) as bytes (uint8), so that it is saved like every other number that was learned."""
    from onnx import TensorProto, checker, helper  # noqa: PLC0415  (0.3 s: predicting does without)

    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", n_columns])
    wanted = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", None])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    whole = helper.make_graph(nodes, "part", [given], [wanted], constants)
    model = helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tidemill")
    checker.check_model(model)
    return np.frombuffer(model.SerializeToString(deterministic=True), dtype=np.uint8)


def _copied(graph: bytes, x: Wire) -> Wire:
    """The graph's nodes behind *x*, under names that no other part of the whole graph has."""
    import onnx  # noqa: PLC0415  (0.3 s: predicting does without)

    part = onnx.load_from_string(graph).graph
    prefix = f"part_{len(x.graph.nodes)}_"
    names = {"": "", part.input[0].name: x.name}
    for constant in part.initializer:
        names[constant.name] = constant.name = prefix + constant.name
        x.graph.constants.append(constant)
    for node in part.node:
        names |= {name: prefix + name for name in node.output if name}
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        node.name = prefix + node.name
        x.graph.nodes.append(node)
    return Wire(x.graph, names[part.output[0].name])


@lru_cache(maxsize=8)
def _session(graph: bytes) -> Any:
    import onnxruntime  # noqa: PLC0415  (0.2 s: models without such a part do without)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the order of a sum must not depend on the machine
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
