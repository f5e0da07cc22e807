"""Check the parity of every member and net, then choose INT8 or FP32 for each net."""

from pathlib import Path
from typing import NamedTuple

from tasks.core.errors import ReleaseError
from tasks.core.reports.quantize import NetPrecision, QuantizeDecision, QuantizeLatency, QuantizeLimits
from tasks.forecasters import load_forecaster
from tasks.forecasters.parts.net import Net
from tasks.quantize.int8 import (
    MAX_LATENCY_RATIO,
    compare_graphs,
    decide_precision,
    open_graph,
    write_int8,
)
from tasks.quantize.params import QuantizeParams
from tasks.quantize.parity import MAX_PARITY_SD, GateRows, check_parity
from tasks.release import Release

_QUANTIZED = "weights in 8 bits with a scale for each output, inputs in float32"


class QuantizedNets(NamedTuple):
    """The decision, and the timings behind it."""

    decision: QuantizeDecision
    latency: QuantizeLatency


def quantize_nets(
    release: Release,
    rows: GateRows,
    fits: Path,
    models: tuple[str, ...],
    params: QuantizeParams,
    folder: Path,
) -> QuantizedNets:
    """Decide for each net, and write <net>.onnx into *folder* where the decision is INT8.

    A net that is not in the release is compared, too, and stays FP32.
    fits: models/fits.
    models: those of this checkout.
    Raises ReleaseError when a graph does not forecast as its forecaster does, or a fit is missing.
    """
    parity = {
        name: check_parity(name, session, _find_fit_folder(fits, name), rows)
        for name, session in sorted(release.members.items())
    }
    limits = QuantizeLimits(
        max_error_frac=params.max_error_frac,
        max_latency_ratio=MAX_LATENCY_RATIO,
        max_parity_sd=MAX_PARITY_SD,
    )
    nets: dict[str, NetPrecision] = {}
    latency = {}
    # Trees and naive models have no matrices of weights
    for name in (name for name in models if isinstance(load_forecaster(_find_fit_folder(fits, name)), Net)):
        if name not in parity:
            parity[name] = check_parity(name, open_graph(fits / name / "model.onnx"), fits / name, rows)
        nets[name], latency[name] = _compare_net(name, release, rows, fits, params, folder)
    decision = QuantizeDecision(
        decision="INT8" if any(net.decision == "INT8" for net in nets.values()) else "FP32",
        reason=" ".join(f"{name}: {net.decision}. {net.reason}" for name, net in nets.items())
        or "There is no net among the models, so there is nothing to quantize.",
        n_gate_rows=len(rows.x),
        parity_sd=parity,
        limits=limits,
        nets=nets,
        quantized=_QUANTIZED if nets else None,
    )
    return QuantizedNets(decision, QuantizeLatency(int8_over_fp32_by_round=latency))


def _compare_net(
    name: str, release: Release, rows: GateRows, fits: Path, params: QuantizeParams, folder: Path
) -> tuple[NetPrecision, tuple[float, ...]]:
    """Decision, reason and figures of the net *name*, and its timings.

    Its graph stays in *folder* when the decision is INT8.
    """
    is_shipped, net = name in release.members, load_forecaster(_find_fit_folder(fits, name))
    fp32, int8 = (
        (release.folder / "members" / f"{name}.onnx" if is_shipped else fits / name / "model.onnx"),
        folder / f"{name}.onnx",
    )
    write_int8(fp32, int8)
    comparison = compare_graphs(fp32, int8, rows, net.params.quantile if isinstance(net, Net) else None)
    decision, reason = decide_precision(comparison, params.max_error_frac)
    if not is_shipped:
        decision, reason = (
            "FP32",
            f"The net has no weight in the release. By itself: {decision}. {reason}",
        )
    if decision == "FP32":
        int8.unlink()
    figures = NetPrecision(
        decision=decision,
        reason=reason,
        weight=release.weights.get(name, 0.0),
        fp32_bytes=comparison.fp32_bytes,
        int8_bytes=comparison.int8_bytes,
        fp32_error=comparison.fp32_error,
        int8_error=comparison.int8_error,
        worsens_frac=comparison.worsens_frac,
        # With more digits, each run would give another number
        latency_ratio=round(comparison.latency_ratio, 1),
    )
    return figures, tuple(comparison.latency)


def _find_fit_folder(fits: Path, name: str) -> Path:
    folder = fits / name
    if not (folder / "model.onnx").exists():
        raise ReleaseError(
            f"{folder} has no model.onnx, so the graph of {name!r} cannot be compared. Train it again: `dvc"
            f" repro train@{name}`."
        )
    return folder
