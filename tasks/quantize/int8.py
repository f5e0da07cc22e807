"""INT8 weights for a net: the graph, its error, its size and its speed next to those of FP32."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.core.reports.quantize import Precision
from tasks.core.seasonal import build_seasonal_from_panel
from tasks.quantize.parity import GateRows, run_graph

_MATRICES = {
    "MatMul": (1,),
    "GRU": (1, 2),
    "LSTM": (1, 2),
}  # operator -> its inputs that are matrices of weights; intercepts and norms are a few numbers
# Of such a matrix; recurrent operators hold (direction, gates, in)
_OUTPUT_AXIS = {"MatMul": -1, "GRU": -2, "LSTM": -2}
_INT8_MAX = 127  # symmetric: -128 is not used
MAX_LATENCY_RATIO = 1.2  # below that the clock of a shared machine is too noisy
_ROUNDS = 7
_CALLS = 200  # of each graph in a round; one row each, as in a request to the service


class GraphComparison(NamedTuple):
    """FP32 and INT8 of one net.

    fp32_bytes, int8_bytes: of the file.
    fp32_error, int8_error: mean loss over the gate's rows.
    latency: INT8 over FP32, one figure per round.
    """

    fp32_bytes: int
    int8_bytes: int
    fp32_error: float
    int8_error: float
    latency: list[float]

    @property
    def worsens_frac(self) -> float:
        """Fraction by which the error of INT8 is larger; negative when it is smaller."""
        return self.int8_error / self.fp32_error - 1 if self.fp32_error > 0 else float(self.int8_error > 0)

    @property
    def latency_ratio(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.latency))


def write_int8(fp32: Path, int8: Path) -> None:
    """Write *fp32* with the weights of its matrix products in 8 bits, one scale for each output.

    So are those of recurrent units and of attention; products of two wires, as attention has, hold
    no weights. Inputs of a product stay float32. onnxruntime's dynamic quantization scales them by
    the batch, so that a row's forecast would depend on the rows next to it, and its 8-bit products
    overflow on processors without VNNI: neither could be recomputed.
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


def compare_graphs(fp32: Path, int8: Path, rows: GateRows, quantile: float | None = None) -> GraphComparison:
    """Size, error and speed of both graphs.

    quantile: that the net forecasts, if it does; its error is then the pinball loss.
    """
    fp32_session, int8_session = open_graph(fp32), open_graph(int8)
    fp32_error, int8_error = (
        score_mean_loss(run_graph(session, rows.x), rows, quantile)
        for session in (fp32_session, int8_session)
    )
    return GraphComparison(
        fp32.stat().st_size,
        int8.stat().st_size,
        fp32_error,
        int8_error,
        _compare_latency(fp32_session, int8_session, rows.x[:1]),
    )


def decide_precision(comparison: GraphComparison, max_error_frac: float) -> tuple[Precision, str]:
    """INT8 or FP32, with the reason: by error, then by size; speed can only rule INT8 out."""
    if not comparison.worsens_frac <= max_error_frac:
        return (
            "FP32",
            (
                f"INT8 would worsen the net's error by {comparison.worsens_frac:.2%}; at most"
                f" {max_error_frac:.2%} is allowed."
            ),
        )
    if comparison.int8_bytes >= comparison.fp32_bytes:
        return (
            "FP32",
            (
                f"INT8 is not smaller: {comparison.int8_bytes} bytes against {comparison.fp32_bytes}; the net"
                " is so small that the scales outweigh it."
            ),
        )
    if comparison.latency_ratio > MAX_LATENCY_RATIO:
        return (
            "FP32",
            (
                f"INT8 takes {comparison.latency_ratio:.1f} times as long for a row; at most"
                f" {MAX_LATENCY_RATIO:g} is allowed."
            ),
        )
    saved = 1 - comparison.int8_bytes / comparison.fp32_bytes
    return (
        "INT8",
        (
            f"The file is {saved:.0%} smaller and the net's error changes by"
            f" {comparison.worsens_frac:+.2%}; up to {max_error_frac:.2%} is allowed."
        ),
    )


def score_mean_loss(z_hat: np.ndarray, rows: GateRows, quantile: float | None) -> float:
    """Mean loss of z_hat (n, H) over the known y; NaN when none is known.

    quantile: None for the primary loss, else the pinball loss of that quantile.
    """
    dataset, seasonal = rows.panel.dataset, build_seasonal_from_panel(rows.panel)
    about, kind = dataset.about, dataset.kind
    scaling_errors = (
        None
        if seasonal is None
        else seasonal.scaling_errors(
            rows.y, rows.where[:, [0]], rows.where[:, [1]], np.arange(1, rows.y.shape[1] + 1)
        )
    )
    _, compute_loss = kind.select_loss(about, {"quantile": quantile})
    z_hat = rows.panel.add_centres(kind.link(z_hat), rows.where[:, 1])
    loss = compute_loss(rows.y, kind.decode(about.target, z_hat), scaling_errors)
    known = loss[np.isfinite(loss)]
    return float(known.mean()) if len(known) else float("nan")


def open_graph(path: Path) -> Any:
    """A session as the service opens it: one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def _compare_latency(fp32: Any, int8: Any, row: np.ndarray) -> list[float]:
    """Seconds of INT8 over FP32, by round.

    Each is a ratio of medians. Calls alternate, so that other work on the machine slows both, and a
    single stall does not count.
    """
    for session in (fp32, int8):
        _compute_seconds(session, row)  # the first call allocates
    rounds = []
    for _ in range(_ROUNDS):
        turns = [(_compute_seconds(fp32, row), _compute_seconds(int8, row)) for _ in range(_CALLS)]
        of_fp32, of_int8 = np.median(turns, axis=0)
        rounds.append(float(of_int8 / of_fp32))
    return rounds


def _compute_seconds(session: Any, row: np.ndarray) -> float:
    started = time.perf_counter()
    session.run(["z_hat"], {"x": row})
    return time.perf_counter() - started
