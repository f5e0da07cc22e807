"""How a trial is judged: by an inner walk over what the cutoff of the search knew, so nothing
that is scored out of sample was seen; and what its graph costs.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.core.about import About
from tasks.core.errors import FoldError, ForecasterError, TidemillError
from tasks.core.scores import ScalingErrors, select_loss
from tasks.core.seasonal import build_seasonal_from_panel
from tasks.core.transform import inverse_transform_target
from tasks.core.windows import Fold, Panel, SupersededValues
from tasks.forecasters import Forecaster
from tasks.train.fits import FitContext, compute_source_digest
from tasks.train.search.params import SearchParams
from tasks.train.search.study import get_attribute

_ROUNDS = 30  # of one answer each, for the latency


class InnerWalk(NamedTuple):
    """What every trial of one search shares. ground: its panel ends with the origin *at*, the
    search's cutoff. folds: of the inner walk. z: {origin: (S, H)} as the cutoff knew it.

    reused: for each fold what its fits leave for each other, in this process.
    """

    ground: FitContext
    search: SearchParams
    about: About
    at: int
    folds: list[Fold]
    z: dict[int, np.ndarray]
    key: str
    reused: list[dict[str, Any]]

    @property
    def scaling_errors(self) -> ScalingErrors | None:
        """Of all that the inner walk forecasts, (K, S, H), where the primary score needs one; so
        folds are measured alike.
        """
        seasonal, y = (
            build_seasonal_from_panel(self.ground.panel, self.about),
            inverse_transform_target(self.about.target, np.stack(list(self.z.values()))),
        )
        if seasonal is None:
            return None
        return seasonal.scaling_errors(
            y,
            np.array(list(self.z))[:, None, None],
            np.arange(y.shape[1])[:, None],
            np.arange(1, y.shape[2] + 1),
        )

    @property
    def primary_loss(
        self,
    ) -> tuple[str, Callable[[np.ndarray, np.ndarray, ScalingErrors | None], np.ndarray]]:
        """Name of the loss that trials are compared by, and the loss."""
        return select_loss(self.about.primary_score, self.ground.own.get("quantile"))


def build_inner_walk(ground: FitContext, at: int, search: SearchParams, about: About) -> InnerWalk:
    """The newest cutoffs whose whole horizon the cutoff with origin *at* knew, in `inner_refits`
    folds.

    Raises FoldError when they leave too little to learn from.
    """
    panel, walk, steps = build_panel_until(ground.panel, at), ground.walk, about.horizon_steps
    stride = search.inner_stride_steps or steps
    newest = at - steps - walk.embargo_steps
    origins = newest - stride * np.arange(search.inner_cutoffs - 1, -1, -1)
    least = walk.min_train_steps // 2 + steps + walk.embargo_steps
    if origins[0] + 1 < least:
        fitting = max(0, (newest + 1 - least) // stride + 1)
        raise FoldError(
            f"An inner walk of {search.inner_cutoffs} cutoffs every {stride} steps leaves"
            f" {max(0, origins[0] + 1)} steps before its first, of {at + 1} that the search knows; it needs"
            f" {least}. Set `search.inner_cutoffs` to at most {fitting}, `search.inner_stride_steps` lower,"
            " or raise `train.min_train_steps`."
        )
    folds = [
        Fold(int(part[0]), part) for part in np.array_split(origins, min(search.inner_refits, len(origins)))
    ]
    z = {int(o): panel.get_targets(int(o), int(o) + 1, at, walk.embargo_steps)[0] for o in origins}
    window = (
        walk
        if search.inner_window_steps is None
        else walk.model_copy(update={"window_steps": search.inner_window_steps})
    )
    inner = InnerWalk(
        ground._replace(panel=panel, walk=window, searched=()),
        search,
        about,
        at,
        folds,
        z,
        "",
        [{} for _ in folds],
    )
    return inner._replace(key=_compute_key(inner))


def build_panel_until(panel: Panel, at: int) -> Panel:
    """The first steps of *panel*, the origin *at* the last; what was known later is not in it."""
    end, old = at + 1, panel.superseded
    held = old.pos < end
    known = panel.known_pos[:end] <= at
    return Panel(
        panel.series_ids,
        panel.event_time[:end],
        panel.cutoff[:end],
        panel.x[:end],
        np.where(known, panel.y[:end], np.nan),
        np.where(known, panel.z[:end], np.nan),
        panel.known_pos[:end],
        panel.schema,
        SupersededValues(*(part[held] for part in old)),
    )


def _compute_key(inner: InnerWalk) -> str:
    """sha256 over everything that a trial's outcome depends on."""
    ground = inner.ground
    about = [
        ground.code,
        ground.forecaster,
        compute_source_digest(ground),
        ground.panel.schema.hash,
        ground.seed,
        ground.own,
        None if ground.select is None else ground.select.model_dump(),
        inner.search.trial_inputs,
        inner.about.primary_score,
        inner.about.target.model_dump(),
    ]
    hashed = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for fold in inner.folds:
        for array in (
            *ground.panel.training(fold.fit_at, ground.walk),
            ground.panel.x[fold.origins],
            *(inner.z[int(o)] for o in fold.origins),
        ):
            hashed.update(f"{array.dtype}{array.shape}".encode())
            hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()[:32]


def score_start(study: Any, inner: InnerWalk) -> float:
    """Of the parameters as they stand in params.yaml, judged once; infinite where the model
    refuses them.
    """

    def judged() -> float | None:
        try:
            return [error for error, _ in score_folds(inner, inner.ground.own)][-1]
        except TidemillError:
            return None  # JSON of a database knows no infinity

    kept = get_attribute(study, "start_error", judged)
    return float("inf") if kept is None else float(kept)


def score_folds(inner: InnerWalk, own: dict[str, Any]) -> Iterator[tuple[float, Forecaster]]:
    """After each inner fold: the mean loss so far, and the fold's fit."""
    total, n = 0.0, 0
    yardstick = inner.scaling_errors
    for fold, reused in zip(inner.folds, inner.reused, strict=True):
        fit = inner.ground.learn(fold.fit_at, own, reused=reused)
        x, where = inner.ground.panel.at(fold.origins)
        z = np.array([inner.z[int(origin)][series] for origin, series in where]).reshape(len(where), -1)
        y, y_hat = (
            inverse_transform_target(inner.about.target, z),
            inverse_transform_target(inner.about.target, fit.predict(x)),
        )
        own_scale = yardstick and yardstick._replace(
            scale=yardstick.scale[np.searchsorted(list(inner.z), where[:, 0]), where[:, 1]]
        )
        loss = inner.primary_loss[1](y, y_hat, own_scale)
        if not np.isfinite(y_hat[np.isfinite(y)]).all():
            raise ForecasterError("Some forecasts of the inner walk are no numbers.")
        total, n = total + float(np.nansum(loss)), n + int(np.isfinite(loss).sum())
        if n == 0:
            raise ForecasterError(
                "Nothing that the inner walk forecasts is known. Raise `search.inner_cutoffs`."
            )
        yield total / n, fit


def score_fit(fit: Forecaster, inner: InnerWalk, panel: Panel, origins: np.ndarray) -> float:
    """Mean loss of *fit* over the cutoffs with *origins*, whatever became known later."""
    x, where = panel.at(origins)
    z = panel.get_targets(int(origins[0]), int(origins[-1]) + 1)
    y, seasonal = (
        inverse_transform_target(inner.about.target, z[where[:, 0] - origins[0], where[:, 1]]),
        build_seasonal_from_panel(panel, inner.about),
    )
    yardstick = (
        None
        if seasonal is None
        else seasonal.scaling_errors(y, where[:, [0]], where[:, [1]], np.arange(1, y.shape[1] + 1))
    )
    loss = inner.primary_loss[1](y, inverse_transform_target(inner.about.target, fit.predict(x)), yardstick)
    return float(np.nanmean(loss))


def compute_costs(fit: Forecaster, inner: InnerWalk) -> list[float]:
    """Latency in ms of one row through onnxruntime on one thread, the median of rounds, and size
    in bytes of the graph: what `objectives` asks for.
    """
    asked = inner.search.objectives[1:]
    if not asked:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        fit.to_onnx(path)
        of = {"size": lambda: float(path.stat().st_size), "latency": lambda: _compute_latency_ms(path, inner)}
        return [of[objective]() for objective in asked]


def _compute_latency_ms(path: Path, inner: InnerWalk) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    row = {"x": np.ascontiguousarray(inner.ground.panel.at(inner.folds[-1].origins)[0][:1])}
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        session.run(None, row)
        seconds.append(time.perf_counter() - began)
    return 1000 * float(np.median(seconds))
