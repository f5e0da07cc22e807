"""Check the parity of every member and net, then choose the form in which each net is served."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.core.errors import ReleaseError
from tasks.core.panel import Panel
from tasks.core.reports.quantize import (
    Form,
    FormFigures,
    NetPrecision,
    Precision,
    QuantizeDecision,
    QuantizeLatency,
    QuantizeLimits,
)
from tasks.forecasters import load_forecaster
from tasks.forecasters.parts.net import Net
from tasks.quantize.decide import MAX_LATENCY_RATIO, decide_form, find_obstacle
from tasks.quantize.forms import Run, open_form, write_forms
from tasks.quantize.measure import (
    build_interval,
    compare_judged,
    compute_batch_difference,
    judge_forecasts,
    measure_latency,
    measure_memory,
)
from tasks.quantize.params import QuantizeParams
from tasks.quantize.parity import MAX_PARITY_SD, check_parity, open_graph
from tasks.quantize.rows import OutcomeRows, build_gate_rows, build_training_rows
from tasks.release import Release


class QuantizedNets(NamedTuple):
    """The decision, and the measurements behind it."""

    decision: QuantizeDecision
    latency: QuantizeLatency


class TrainingRows(NamedTuple):
    """Rows to judge by and rows to calibrate with."""

    judged: OutcomeRows
    calibration: OutcomeRows


class ComparedForms(NamedTuple):
    """The figures of each form of a net, the file of each, and what differs at each run."""

    figures: dict[Form, FormFigures]
    latency_us: dict[Form, dict[str, float]]
    memory_bytes: dict[Form, int]


def quantize_nets(
    release: Release,
    panel: Panel,
    gate_steps: int,
    fits: Path,
    models: tuple[str, ...],
    params: QuantizeParams,
    folder: Path,
) -> QuantizedNets:
    """Decide for each net, and write <net>.onnx into *folder* where another form than FP32 serves.

    A net that is not in the release is compared, too, and stays FP32.
    fits: models/fits.
    models: those of this checkout.
    Raises ReleaseError when a graph does not forecast as its forecaster does, or a fit is missing.
    """
    gate_rows = build_gate_rows(panel, gate_steps)
    parity = {
        name: check_parity(name, session, _find_fit_folder(fits, name), gate_rows)
        for name, session in sorted(release.members.items())
    }
    # Trees and naive models have no matrices of weights
    fitted = {name: load_forecaster(_find_fit_folder(fits, name)) for name in models}
    of_nets = {name: fit for name, fit in fitted.items() if isinstance(fit, Net)}
    rows = TrainingRows(*build_training_rows(panel, gate_steps)) if of_nets else None
    nets: dict[str, NetPrecision] = {}
    latency = QuantizeLatency()
    for name, net in of_nets.items():
        assert rows is not None
        fit = fits / name
        if name not in parity:
            parity[name] = check_parity(name, open_graph(fit / "model.onnx"), fit, gate_rows)
        with tempfile.TemporaryDirectory() as work:
            files = write_forms(net, fit / "model.onnx", rows.calibration.x, Path(work))
            compared = compare_forms(files, rows, net.params.quantile, params.max_error_frac)
            nets[name] = _decide_net(name, release, compared.figures)
            if nets[name].form != "fp32":
                shutil.copyfile(files[nets[name].form], folder / f"{name}.onnx")
        latency.latency_us[name], latency.memory_bytes[name] = compared.latency_us, compared.memory_bytes
    decision = QuantizeDecision(
        decision="INT8" if any(net.decision == "INT8" for net in nets.values()) else "FP32",
        reason=" ".join(f"{name}: {net.decision}. {net.reason}" for name, net in nets.items())
        or "There is no net among the models, so there is nothing to quantize.",
        n_gate_rows=len(gate_rows.x),
        n_judged_rows=None if rows is None else len(rows.judged.x),
        parity_sd=parity,
        limits=QuantizeLimits(
            max_error_frac=params.max_error_frac,
            max_latency_ratio=MAX_LATENCY_RATIO,
            max_parity_sd=MAX_PARITY_SD,
        ),
        nets=nets,
    )
    return QuantizedNets(decision, latency)


def compare_forms(
    files: Mapping[Form, Path], rows: TrainingRows, quantile: float | None, max_error_frac: float
) -> ComparedForms:
    """Measure each form of a net next to FP32.

    quantile: that the net forecasts, if it does.
    """
    runs: dict[Form, Run] = {form: open_form(file) for form, file in files.items()}
    judged = rows.judged
    interval = build_interval(runs["fp32"], rows.calibration, quantile)
    of = {form: judge_forecasts(run(judged.x), judged, interval, quantile) for form, run in runs.items()}
    seconds = measure_latency(runs, judged.x)
    figures: dict[Form, FormFigures] = {}
    for form, run in runs.items():
        changes = compare_judged(of["fp32"], of[form], judged.where[:, 0])
        found = FormFigures(
            n_bytes=files[form].stat().st_size,
            error=float(np.nanmean(of[form].loss)),
            error_change=changes.error,
            pinball_change=changes.pinball,
            coverage_change=changes.coverage,
            batch_difference_sd=compute_batch_difference(run, judged),
            # With more digits, each run would give another number
            latency_ratio={
                str(n_rows): 1.0 if form == "fp32" else round(float(np.median(of_form / of_fp32)), 1)
                for n_rows, (of_fp32, of_form) in ((n, rounds.T) for n, rounds in seconds[form].items())
            },
            obstacle=None,
        )
        obstacle = find_obstacle(form, found, figures.get("fp32", found), max_error_frac, MAX_PARITY_SD)
        figures[form] = found.model_copy(update={"obstacle": obstacle})
    latency_us: dict[Form, dict[str, float]] = {
        form: {str(n_rows): 1e6 * float(np.median(rounds[:, 1])) for n_rows, rounds in by_rows.items()}
        for form, by_rows in seconds.items()
    }
    return ComparedForms(figures, latency_us, measure_memory(files, judged.x))


def _decide_net(name: str, release: Release, forms: dict[Form, FormFigures]) -> NetPrecision:
    """A net that is not in the release stays in FP32, whatever it would be by itself."""
    form, reason = decide_form(forms)
    if name not in release.members:
        reason = f"The net has no weight in the release. By itself: {_get_precision(form)}. {reason}"
        form = "fp32"
    return NetPrecision(
        decision=_get_precision(form),
        reason=reason,
        weight=release.weights.get(name, 0.0),
        form=form,
        forms=forms,
    )


def _get_precision(form: Form) -> Precision:
    return "FP32" if form == "fp32" else "INT8"


def _find_fit_folder(fits: Path, name: str) -> Path:
    folder = fits / name
    if not (folder / "model.onnx").exists():
        raise ReleaseError(
            f"{folder} has no model.onnx, so the graph of {name!r} cannot be compared. Train it again: `dvc"
            f" repro train@{name}`."
        )
    return folder
