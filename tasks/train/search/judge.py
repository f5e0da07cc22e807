"""How a trial is judged: by an inner walk before the search's cutoff, and by what its graph costs.

The inner walk uses only what that cutoff knew, so no trial sees anything that is scored out of
sample.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.core.about import About
from tasks.core.errors import FoldError, ForecasterError, TidemillError
from tasks.core.folds import Fold
from tasks.core.kinds.base import Kind, Loss
from tasks.core.panel import Panel, SupersededValues
from tasks.core.scores import ScalingErrors
from tasks.core.seasonal import build_seasonal_from_panel
from tasks.forecasters import Forecaster
from tasks.train.fits import FitContext, compute_source_digest
from tasks.train.search.params import SearchParams
from tasks.train.search.study import get_attribute

N_LATENCY_ROUNDS = 30  # one row each; the median is the latency


class InnerWalk(NamedTuple):
    """What all trials of one search share.

    context: how fits are made; its panel ends with the search's cutoff.
    origin: index of the search's cutoff in the panel.
    folds: refits of the inner walk and the origins that each serves.
    targets: {origin: (S, H)} in the space of z, as the search's cutoff knew them.
    key: name of the study.
    reused: for each fold, what its fits leave for each other in this process.
    """

    context: FitContext
    search: SearchParams
    about: About
    origin: int
    folds: list[Fold]
    targets: dict[int, np.ndarray]
    key: str
    reused: list[dict[str, Any]]

    @property
    def scaling_errors(self) -> ScalingErrors | None:
        """Scaling errors of the inner walk, (K, S, H); None unless the primary score is scaled.

        They are computed over all folds, so that every fold is scaled alike.
        """
        seasonal = build_seasonal_from_panel(self.context.panel)
        if seasonal is None:
            return None
        y = self.kind.decode_outcome(self.about.target, np.stack(list(self.targets.values())))
        return seasonal.scaling_errors(
            y,
            np.array(list(self.targets))[:, None, None],
            np.arange(y.shape[1])[:, None],
            np.arange(1, y.shape[2] + 1),
        )

    @property
    def kind(self) -> Kind:
        """What the target's kind defines."""
        return self.context.panel.dataset.kind

    @property
    def primary_loss(self) -> tuple[str, Loss]:
        """Name of the loss by which trials are compared, and the loss."""
        return self.kind.select_loss(self.about, self.context.model_params)


def build_inner_walk(context: FitContext, origin: int, search: SearchParams, about: About) -> InnerWalk:
    """The newest cutoffs whose whole horizon was known at *origin*, in `inner_refits` folds.

    origin: index of the search's cutoff in the panel.
    Raises FoldError when they leave too few steps to learn from.
    """
    panel, walk, steps = build_panel_until(context.panel, origin), context.walk, about.horizon_steps
    stride = search.inner_stride_steps or steps
    newest = origin - steps - walk.embargo_steps
    origins = newest - stride * np.arange(search.inner_cutoffs - 1, -1, -1)
    least = walk.min_train_steps // 2 + steps + walk.embargo_steps
    if origins[0] + 1 < least:
        fitting = max(0, (newest + 1 - least) // stride + 1)
        raise FoldError(
            f"An inner walk of {search.inner_cutoffs} cutoffs every {stride} steps leaves"
            f" {max(0, origins[0] + 1)} steps before its first, of {origin + 1} that the search knows; it"
            f" needs {least}. Set `search.inner_cutoffs` to at most {fitting}, lower"
            " `search.inner_stride_steps`, or raise `train.min_train_steps`."
        )
    folds = [
        Fold(int(part[0]), part) for part in np.array_split(origins, min(search.inner_refits, len(origins)))
    ]
    targets = {int(o): panel.get_targets(int(o), int(o) + 1, origin, walk.embargo_steps)[0] for o in origins}
    inner_walk = (
        walk
        if search.inner_window_steps is None
        else walk.model_copy(update={"window_steps": search.inner_window_steps})
    )
    inner_context = context._replace(panel=panel, walk=inner_walk, searched=())
    inner = InnerWalk(inner_context, search, about, origin, folds, targets, "", [{} for _ in folds])
    return inner._replace(key=_compute_key(inner))


def build_panel_until(panel: Panel, origin: int) -> Panel:
    """The steps of *panel* up to *origin*, without values that became known later."""
    end, old = origin + 1, panel.superseded
    is_before_end = old.pos < end
    known = panel.known_pos[:end] <= origin
    return Panel(
        panel.series_ids,
        panel.event_time[:end],
        panel.cutoff[:end],
        panel.x[:end],
        np.where(known, panel.y[:end], np.nan),
        np.where(known, panel.z[:end], np.nan),
        panel.known_pos[:end],
        panel.dataset,
        SupersededValues(*(part[is_before_end] for part in old)),
    )


def _compute_key(inner: InnerWalk) -> str:
    """First 32 digits of a sha256 over everything that the outcome of a trial depends on."""
    context = inner.context
    inputs = [
        context.code,
        context.forecaster,
        compute_source_digest(context),
        context.panel.schema.hash,
        context.seed,
        context.model_params,
        None if context.select is None else context.select.model_dump(),
        inner.search.trial_inputs,
        inner.about.primary_score,
        inner.about.target.model_dump(),
    ]
    hashed = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode())
    for fold in inner.folds:
        for array in (
            *context.panel.get_training_pairs(fold.fit_at, context.walk),
            context.panel.x[fold.origins],
            *(inner.targets[int(o)] for o in fold.origins),
        ):
            hashed.update(f"{array.dtype}{array.shape}".encode())
            hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()[:32]


def score_start(study: Any, inner: InnerWalk) -> float:
    """Inner error of the parameters in params.yaml; infinite if the model refuses them."""

    def score() -> float | None:
        try:
            return [error for error, _ in score_folds(inner, inner.context.model_params)][-1]
        except TidemillError:
            return None  # JSON of a database knows no infinity

    error = get_attribute(study, "start_error", score)
    return float("inf") if error is None else float(error)


def score_folds(inner: InnerWalk, model_params: dict[str, Any]) -> Iterator[tuple[float, Forecaster]]:
    """After each inner fold: the mean loss up to it, and its fit.

    Raises ForecasterError for a forecast that is not finite, or when no outcome is known.
    """
    total, n = 0.0, 0
    scaling_errors = inner.scaling_errors
    for fold, reused in zip(inner.folds, inner.reused, strict=True):
        fit = inner.context.learn(fold.fit_at, model_params, reused=reused)
        x, positions = inner.context.panel.get_inputs(fold.origins)
        z = np.array([inner.targets[int(origin)][series] for origin, series in positions])
        y, y_hat = _decode_pairs(inner, positions, z.reshape(len(positions), -1), fit.predict(x))
        fold_errors = scaling_errors and scaling_errors._replace(
            scale=scaling_errors.scale[np.searchsorted(list(inner.targets), positions[:, 0]), positions[:, 1]]
        )
        loss = inner.primary_loss[1](y, y_hat, fold_errors)
        if not np.isfinite(y_hat[np.isfinite(y)]).all():
            raise ForecasterError("Some forecasts of the inner walk are not finite.")
        total, n = total + float(np.nansum(loss)), n + int(np.isfinite(loss).sum())
        if n == 0:
            raise ForecasterError(
                "No outcome of the inner walk's forecasts is known. Raise `search.inner_cutoffs`."
            )
        yield total / n, fit


def score_fit(fit: Forecaster, inner: InnerWalk, panel: Panel, origins: np.ndarray) -> float:
    """Mean loss of *fit* at the cutoffs with *origins*, against the newest outcomes in *panel*."""
    x, positions = panel.get_inputs(origins)
    z = panel.get_targets(int(origins[0]), int(origins[-1]) + 1)
    z = z[positions[:, 0] - origins[0], positions[:, 1]]
    y, y_hat = _decode_pairs(inner, positions, z, fit.predict(x))
    seasonal = build_seasonal_from_panel(panel)
    scaling_errors = (
        None
        if seasonal is None
        else seasonal.scaling_errors(y, positions[:, [0]], positions[:, [1]], np.arange(1, y.shape[1] + 1))
    )
    return float(np.nanmean(inner.primary_loss[1](y, y_hat, scaling_errors)))


def _decode_pairs(
    inner: InnerWalk, positions: np.ndarray, z: np.ndarray, z_hat: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """y and y_hat (n, H) of targets and of a model's forecasts at *positions* (n, 2)."""
    kind, target, panel, series = inner.kind, inner.about.target, inner.context.panel, positions[:, 1]
    return (
        kind.decode_outcome(target, panel.add_centres(z, series)),
        kind.decode(target, panel.add_centres(kind.link(z_hat), series)),
    )


def compute_costs(fit: Forecaster, inner: InnerWalk) -> list[float]:
    """The objectives after the error: size of the graph in bytes, latency of one row in ms."""
    objectives = inner.search.objectives[1:]
    if not objectives:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        fit.to_onnx(path)
        return [
            float(path.stat().st_size) if objective == "size" else _measure_latency_ms(path, inner)
            for objective in objectives
        ]


def _measure_latency_ms(path: Path, inner: InnerWalk) -> float:
    """Median time of one row through onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    row = {"x": np.ascontiguousarray(inner.context.panel.get_inputs(inner.folds[-1].origins)[0][:1])}
    seconds = []
    for _ in range(N_LATENCY_ROUNDS):
        started = time.perf_counter()
        session.run(None, row)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))
