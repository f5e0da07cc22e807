"""INT8 weights for a net."""

from pathlib import Path
from typing import Any

import numpy as np

_MATRICES = {
    "MatMul": (1,),
    "GRU": (1, 2),
    "LSTM": (1, 2),
}  # operator -> its inputs that are matrices of weights; intercepts and norms are a few numbers
# Of such a matrix; recurrent operators hold (direction, gates, in)
_OUTPUT_AXIS = {"MatMul": -1, "GRU": -2, "LSTM": -2}
_INT8_MAX = 127  # symmetric: -128 is not used


def write_int8(fp32: Path, int8: Path) -> None:
    """Write *fp32* with the weights of its matrix products in 8 bits, one scale for each output.

    So are those of recurrent units and of attention; products of two wires, as attention has, hold
    no weights. Inputs of a product stay float32.
    """
    import onnx

    model = onnx.load(fp32)
    constants = {constant.name: constant for constant in model.graph.initializer}
    for index, node in reversed(list(enumerate(model.graph.node))):
        for position in _MATRICES.get(node.op_type, ()):
            if (weights := constants.get(node.input[position])) is None:
                continue
            for new_node in reversed(_add_dequantized(model.graph, weights, _OUTPUT_AXIS[node.op_type])):
                model.graph.node.insert(index, new_node)
            node.input[position] = f"{weights.name}_float"
            model.graph.initializer.remove(weights)
    onnx.checker.check_model(model)
    int8.write_bytes(model.SerializeToString(deterministic=True))


def _add_dequantized(graph: Any, weights: Any, output_axis: int) -> list[Any]:
    """Add the 8-bit integers and scales of *weights* to *graph*.

    There is one scale for each index of *output_axis*.
    Returns the nodes that multiply them; onnxruntime does so once, when it loads the graph.
    """
    from onnx import TensorProto, helper, numpy_helper

    values, name = numpy_helper.to_array(weights), weights.name
    others = tuple(axis for axis in range(values.ndim) if axis != output_axis % values.ndim)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(_INT8_MAX)
    integers = np.clip(np.rint(values / scale), -_INT8_MAX, _INT8_MAX).astype(np.int8)
    graph.initializer.extend(
        [numpy_helper.from_array(integers, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
    )
    return [
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [f"{name}_float"]),
    ]
