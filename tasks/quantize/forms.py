"""The forms in which a net could be served: files, and how each is run.

The service runs onnxruntime alone, so TorchScript is measured and never shipped. Nor is dynamic
INT8, which scales the inputs of a product by the batch: a row's forecast would depend on the rows
next to it, and no answer could be recomputed from its own record.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tasks.core.reports.quantize import Form
from tasks.forecasters.parts.net import Net
from tasks.quantize.int8 import write_int8
from tasks.quantize.parity import open_graph

Run: TypeAlias = Callable[[np.ndarray], np.ndarray]
_QUANTIZED = ["MatMul", "Gemm", "LSTM"]


def write_forms(net: Net, fp32: Path, x: np.ndarray, folder: Path) -> dict[Form, Path]:
    """Write the other forms of *fp32* into *folder*, which may exist.

    Returns the file of each form.
    x: (n, F) rows of the training window, from which static INT8 takes the ranges of inputs.
    """
    folder.mkdir(exist_ok=True)
    files: dict[Form, Path] = {"fp32": fp32}
    files |= {form: folder / f"{form}.onnx" for form in ("int8_weights", "int8_static", "int8_dynamic")}
    files["torchscript"] = folder / "torchscript.pt"
    write_int8(fp32, files["int8_weights"])
    _write_static(fp32, x, files["int8_static"])
    _write_dynamic(fp32, files["int8_dynamic"])
    _write_torchscript(net, x[:2], files["torchscript"])
    return files


def open_form(file: Path) -> Run:
    """The function from x (n, F) to z_hat (n, H) of a form's *file*, on one thread."""
    if file.suffix == ".onnx":
        session = open_graph(file)
        return lambda x: session.run(["z_hat"], {"x": x})[0]
    import torch

    jit: Any = torch.jit
    with _ignore_torch_warnings():
        module = jit.load(str(file))

    def run(x: np.ndarray) -> np.ndarray:
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                out: np.ndarray = module(torch.from_numpy(x)).numpy()
        finally:
            torch.set_num_threads(n_threads)
        return out

    return run


def _write_static(fp32: Path, x: np.ndarray, file: Path) -> None:
    """Weights and inputs of matrix products in 8 bits, inputs by the ranges that they have on x.

    Weights take 7 of the 8 bits: sums of 8-bit products overflow on processors without VNNI, which
    would give other forecasts than the rest. Recurrent units stay in float32.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = _read_model(fp32)
    constants = {constant.name for constant in model.graph.initializer}
    products = [
        node.name for node in model.graph.node if node.op_type in _QUANTIZED and node.input[1] in constants
    ]
    if not products:  # a net without a target to learn from is a constant
        file.write_bytes(fp32.read_bytes())
        return
    quantize_static(
        model,
        file,
        _CalibrationRows(x),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_quantize=products,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )
    _make_canonical(file)


def _write_dynamic(fp32: Path, file: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        _read_model(fp32),
        file,
        op_types_to_quantize=_QUANTIZED,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )
    _make_canonical(file)


def _write_torchscript(net: Net, x: np.ndarray, file: Path) -> None:
    """The net's formula as torch computes it, traced and frozen."""
    import torch

    traced: Any = copy.copy(net)
    traced.learned = {
        name: torch.from_numpy(value) if value.dtype == np.float32 else value
        for name, value in net.learned.items()
    }

    class Module(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return traced.compute(x)

    jit: Any = torch.jit
    with _ignore_torch_warnings(), torch.no_grad():
        jit.freeze(jit.trace(Module().eval(), torch.from_numpy(x))).save(str(file))


class _CalibrationRows:
    """Gives x once, as onnxruntime reads the rows that it calibrates with."""

    def __init__(self, x: np.ndarray) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = iter([{"x": x}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def _read_model(fp32: Path) -> Any:
    """The graph with a name for each node, marked as ready, so that nothing is reported of it."""
    import onnx

    model = onnx.load(fp32)
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return model


def _make_canonical(file: Path) -> None:
    """Write *file* again without notes on how it was made: the same graph is the same bytes."""
    import onnx

    model = onnx.load(file)
    del model.metadata_props[:]
    for node in model.graph.node:
        node.ClearField("name")
    file.write_bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _ignore_torch_warnings() -> Iterator[None]:
    """TorchScript is deprecated, and a trace warns of each constant of the formula."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
