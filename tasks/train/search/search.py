"""Searching parameters inside the window: trials are judged by an inner walk over what the
cutoff knew, so nothing scored out of sample was seen.
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
from tasks.core.folds import Fold
from tasks.core.kinds.base import Loss
from tasks.core.panel import Panel, SupersededValues
from tasks.core.scores import ScalingErrors
from tasks.core.seasonal import build_seasonal_from_panel
from tasks.edges.artifacts import write_json, write_text
from tasks.edges.tracking import log_run
from tasks.edges.workers.fanout import MapOptions, run_jobs
from tasks.forecasters import Forecaster
from tasks.train.fits import FitContext, compute_source_digest, decode_fit
from tasks.train.plan import FitPlan
from tasks.train.search.charts import render_front, render_importances, render_trials
from tasks.train.search.importance import LEAST_TRIALS, ParamImportance, compute_importances
from tasks.train.search.params import SearchParams, merge_params
from tasks.train.search.study import (
    WHY,
    delete_old_studies,
    get_study_folder,
    list_finished,
    open_locked_study,
    open_study,
    register_drawn,
    start_trial,
)

_ROUNDS = 30  # of one answer each, for the latency
VARIES = ("latency",)  # objectives that differ from run to run: never in an output of the stage
_ENDED = "ended"  # attribute of a study: after how many trials each budget ended


class SearchTrial(NamedTuple):
    """One that came to an end.

    number: in the order in which they began, from 1. state: `complete`, `pruned` or `refused`.
    params: what was drawn. values: of the objectives, none unless complete. why: it was refused.
    place: in the study, where killed ones count. ended_ns: since 1970.
    """

    number: int
    state: str
    params: dict[str, Any]
    values: dict[str, float]
    why: str | None
    place: int
    ended_ns: int

    @property
    def error(self) -> float:
        """Mean loss of the inner walk."""
        return self.values["error"]


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
        seasonal = build_seasonal_from_panel(self.ground.panel)
        kind = self.ground.panel.dataset.kind
        y = kind.decode_outcome(self.about.target, np.stack(list(self.z.values())))
        if seasonal is None:
            return None
        return seasonal.scaling_errors(
            y,
            np.array(list(self.z))[:, None, None],
            np.arange(y.shape[1])[:, None],
            np.arange(1, y.shape[2] + 1),
        )

    @property
    def primary_loss(self) -> tuple[str, Loss]:
        """Name of the loss that trials are compared by, and the loss."""
        return self.ground.panel.dataset.kind.select_loss(self.about, self.ground.own)


class SearchResult(NamedTuple):
    """own: the model's parameters with the chosen ones among them. trials: those that count.
    start_error: of the parameters before. importances: of what was searched.
    """

    inner: InnerWalk
    own: dict[str, Any]
    chosen: SearchTrial | None
    trials: list[SearchTrial]
    start_error: float
    importances: list[ParamImportance]

    def pictures(self) -> dict[str, str]:
        """As SVG by the file's name: how the error fell from trial to trial, or where a steady
        objective stands beside it the front of the two; and the importances.
        """
        others = _list_steady(self.inner.search)[1:]
        tried = (
            _render_front_chart(self.trials, others[0], self.chosen)
            if others
            else render_trials(
                [t.values.get("error") for t in self.trials],
                self.start_error,
                self.chosen and self.chosen.number,
            )
        )
        return {
            "search": tried,
            "importances": render_importances(
                [(i.param, i.shares, i.n_trials) for i in self.importances], LEAST_TRIALS
            ),
        }


TrialLogger = Callable[[str, int, SearchTrial | None], None]


def run_searches(
    ground: FitContext,
    plan: FitPlan,
    search: SearchParams,
    about: About,
    say: Callable[[str], None],
    until: float | None = None,
    tell: TrialLogger = lambda _key, _began, _trial: None,
) -> list[SearchResult]:
    """A search as of the first fold, and as of every `every_folds`-th. until: on the monotonic
    clock, when no further trial begins.

    tell: called with a study's key, when it began (ns since 1970) and None, then with each trial
    that ended; also again with those of a search that was killed.
    """
    places = range(
        0, len(plan.folds) if search.every_folds and plan.refit != "frozen" else 1, search.every_folds or 1
    )
    searched = [run_search(ground, plan.folds[i].fit_at, search, about, say, until, tell) for i in places]
    delete_old_studies()
    return searched


def run_search(
    ground: FitContext,
    at: int,
    search: SearchParams,
    about: About,
    say: Callable[[str], None],
    until: float | None = None,
    tell: TrialLogger = lambda _key, _began, _trial: None,
) -> SearchResult:
    """The search as of the cutoff with origin *at*; what an earlier one, killed or not, has
    tried is taken as it is.
    """
    inner = build_inner_walk(ground, at, search, about)
    with open_locked_study(inner.key, search) as study:
        start_error = _score_start(study, inner)
        ended = study.user_attrs.get(_ENDED, {})
        wanted = min(search.n_trials, ended.get(str(search.budget_s), search.n_trials))
        done = list_trials(study, search)
        if len(done) < wanted or study.user_attrs.get("told", 0) < len(done):
            say(
                f"search as of {ground.panel.cutoff[at]:%F}: {len(done)} of {wanted} trials are there, over"
                f" {len(search.space)} parameters, inner walk of {search.inner_cutoffs} cutoffs"
            )
            began_ns = _get_attribute(study, "began_ns", time.time_ns)
            for trial in (None, *done):
                tell(inner.key, began_ns, trial)
            stops = min(
                (
                    t
                    for t in (until, None if search.budget_s is None else time.monotonic() + search.budget_s)
                    if t is not None
                ),
                default=np.inf,
            )
            _run_trials(
                inner,
                wanted - len(done),
                lambda: time.monotonic() < stops or not list_finished(study),
                lambda trial: tell(inner.key, began_ns, trial),
            )
            done = list_trials(study, search)
            if len(done) < wanted:
                say(
                    f"search as of {ground.panel.cutoff[at]:%F}: THE BUDGET ended it after {len(done)} of"
                    f" {wanted} trials; what is done is kept, a larger one goes on from there"
                )
                if until is None or stops < until:
                    study.set_user_attr(_ENDED, {**ended, str(search.budget_s): len(done)})
            study.set_user_attr("told", len(done))
        trials = done[:wanted]
        chosen = find_best_trial(trials, search, start_error)
        _write_fronts(inner.key, trials, search, chosen)
        complete = [t for t in list_finished(study)[:wanted] if t.state.name == "COMPLETE"]
    for left in inner.reused:
        left.clear()  # the search is over, the training goes on
    weighed = compute_importances(
        complete,
        list(search.space),
        {o: search.objectives.index(o) for o in _list_steady(search)},
        ground.seed,
    )
    searched = SearchResult(
        inner,
        ground.own if chosen is None else merge_params(ground.own, chosen.params),
        chosen,
        trials,
        start_error,
        weighed,
    )
    say(f"search as of {ground.panel.cutoff[at]:%F}: {_format_result(searched)}")
    return searched


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
        panel.dataset,
        SupersededValues(*(part[held] for part in old)),
    )


def run_trial(inner: InnerWalk, _job: int) -> SearchTrial:
    """One trial: drawn, judged, told to the study."""
    from optuna.trial import TrialState

    study = open_study(inner.key, inner.search)
    trial = start_trial(study, inner.search, inner.ground.seed)
    own: dict[str, Any] = _build_full_params(inner.ground)
    for name, axis in inner.search.space.items():
        if axis.is_applicable(own):
            own = merge_params(own, {name: axis.draw(trial, name)})
    register_drawn(trial)
    given = merge_params(inner.ground.own, _parse_params(trial.params, inner.search))
    try:
        # The last fit is weighed below
        for place, (error, fit) in enumerate(_score_folds(inner, given)):  # noqa: B007
            if len(inner.search.objectives) == 1:
                trial.report(error, place)
                if inner.search.prune and place + 1 < len(inner.folds) and trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    break
        else:
            study.tell(trial, [error, *_compute_costs(fit, inner)])
    except TidemillError as refusal:
        trial.set_user_attr(WHY, str(refusal))
        study.tell(trial, state=TrialState.FAIL)
    return next(t for t in list_trials(study, inner.search) if t.place == trial.number)


def list_trials(study: Any, search: SearchParams) -> list[SearchTrial]:
    """The finished trials of *study*."""
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "refused"}
    return [
        SearchTrial(
            number,
            names[t.state.name],
            _parse_params(t.params, search),
            dict(zip(search.objectives, t.values or (), strict=False)) if t.state.name == "COMPLETE" else {},
            t.user_attrs.get(WHY),
            t.number,
            int(t.datetime_complete.timestamp() * 1e9),
        )
        for number, t in enumerate(list_finished(study), 1)
    ]


def find_best_trial(
    trials: list[SearchTrial], search: SearchParams, start_error: float
) -> SearchTrial | None:
    """The complete trial with the least error, or with the least of what `prefer` names among those
    within `within_frac` of it; None: what was there is better.

    Raises ForecasterError when the model refused every trial.
    """
    complete = [t for t in trials if t.state == "complete"]
    if not complete:
        raise ForecasterError(
            f"None of {len(trials)} trials of the search came to an end; the last: {trials[-1].why}. Correct"
            " `search.space`."
        )
    least = min(t.error for t in complete)
    if start_error < least and search.prefer == "error":
        return None
    near = (
        [t for t in complete if t.error <= least * (1 + search.within_frac)]
        if search.prefer != "error"
        else complete
    )
    return min(near, key=lambda t: (t.values[search.prefer], t.error, t.number))


def find_pareto_front(trials: list[SearchTrial], objectives: tuple[str, ...]) -> list[SearchTrial]:
    """Complete trials that no other beats in one of *objectives* without losing in another."""
    complete = [t for t in trials if t.state == "complete"]
    values = np.array([[t.values[o] for o in objectives] for t in complete]).reshape(
        len(complete), len(objectives)
    )
    beaten = [bool(((values <= v).all(axis=1) & (values < v).any(axis=1)).any()) for v in values]
    return [t for t, is_beaten in zip(complete, beaten, strict=True) if not is_beaten]


def build_search_report(
    searched: SearchResult, ground: FitContext, plan: FitPlan, fits: dict[int, bytes]
) -> dict[str, Any]:
    """What one search did, and what its gain was worth: the inner errors beside those of the
    cutoffs that its first fold serves, which it had not seen.
    """
    inner, search = searched.inner, searched.inner.search
    steady = _list_steady(search)
    outer = _score_outer(searched, ground, plan, fits)
    said = None if searched.chosen is None else searched.chosen.number
    return {
        "as_of": ground.panel.cutoff[inner.at].isoformat(),
        "score": inner.primary_loss[0],
        "n_trials": len(searched.trials),
        "states": {
            state: sum(t.state == state for t in searched.trials)
            for state in ("complete", "pruned", "refused")
        },
        "chosen": {
            "trial": said,
            "params": {} if searched.chosen is None else searched.chosen.params,
            "own": searched.own,
        },
        "inner": {
            "error": searched.start_error if searched.chosen is None else searched.chosen.error,
            "error_before": _convert_infinite(searched.start_error),
            "n_cutoffs": search.inner_cutoffs,
        },
        "outer": outer,
        "overfit": None if outer is None else _compute_gain(searched) - outer["gain"],
        "inner_gain": _compute_gain(searched),
        "front": [t.number for t in find_pareto_front(searched.trials, steady)],
        "importances": [one.row() for one in searched.importances],
        "trials": [
            {
                "trial": t.number,
                "state": t.state,
                "params": t.params,
                **{o: t.values[o] for o in steady if o in t.values},
                **({"why": t.why} if t.why else {}),
            }
            for t in searched.trials
        ],
    }


def _run_trials(
    inner: InnerWalk, n: int, go_on: Callable[[], bool], done: Callable[[SearchTrial], None]
) -> None:
    """*n* trials more: one after the other here with one worker, so that each draws from all
    before it.
    """
    if inner.search.workers == 1:
        for job in range(n):
            if not go_on():
                return
            done(run_trial(inner, job))
    else:
        releases_gil = getattr(type(inner.ground.build()), "releases_gil", False)
        run_jobs(
            run_trial,
            inner,
            list(range(n)),
            MapOptions(inner.search.workers, releases_gil),
            lambda _i, trial: done(trial),
            go_on,
        )


def _score_folds(inner: InnerWalk, own: dict[str, Any]) -> Iterator[tuple[float, Forecaster]]:
    """After each inner fold: the mean loss so far, and the fold's fit."""
    total, n = 0.0, 0
    scaling, kind = inner.scaling_errors, inner.ground.panel.dataset.kind
    for fold, reused in zip(inner.folds, inner.reused, strict=True):
        fit = inner.ground.learn(fold.fit_at, own, reused=reused)
        x, where = inner.ground.panel.at(fold.origins)
        z = np.array([inner.z[int(origin)][series] for origin, series in where]).reshape(len(where), -1)
        y, y_hat = (
            kind.decode_outcome(inner.about.target, z),
            kind.decode(inner.about.target, kind.link(fit.predict(x))),
        )
        own_scale = scaling and scaling._replace(
            scale=scaling.scale[np.searchsorted(list(inner.z), where[:, 0]), where[:, 1]]
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


def _compute_costs(fit: Forecaster, inner: InnerWalk) -> list[float]:
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


def _score_start(study: Any, inner: InnerWalk) -> float:
    """Of the parameters as they stand in params.yaml, judged once; infinite where the model
    refuses them.
    """

    def judged() -> float | None:
        try:
            return [error for error, _ in _score_folds(inner, inner.ground.own)][-1]
        except TidemillError:
            return None  # JSON of a database knows no infinity

    kept = _get_attribute(study, "start_error", judged)
    return float("inf") if kept is None else float(kept)


def _get_attribute(study: Any, name: str, make: Callable[[], Any]) -> Any:
    """The study's attribute *name*, made once."""
    if name not in study.user_attrs:
        study.set_user_attr(name, make())
    return study.user_attrs[name]


def _score_outer(
    searched: SearchResult, ground: FitContext, plan: FitPlan, fits: dict[int, bytes]
) -> dict[str, Any] | None:
    """Loss over the cutoffs of the fold that the search precedes, of its fit and of one with the
    parameters before; None when the budget left no fit.
    """
    fold = next(f for f in plan.folds if f.fit_at == searched.inner.at)
    if fold.fit_at not in fits:
        return None
    fit = decode_fit(fits[fold.fit_at], ground)
    error = _score_fit(fit, searched.inner, ground.panel, fold.origins)
    try:
        before = (
            error
            if searched.chosen is None
            else _score_fit(ground.learn(fold.fit_at, ground.own), searched.inner, ground.panel, fold.origins)
        )
    except TidemillError:
        return {"error": error, "error_before": None, "gain": 0.0, "n_cutoffs": len(fold.origins)}
    return {
        "error": error,
        "error_before": before,
        "gain": 1 - error / before if before else 0.0,
        "n_cutoffs": len(fold.origins),
    }


def _score_fit(fit: Forecaster, inner: InnerWalk, panel: Panel, origins: np.ndarray) -> float:
    x, where = panel.at(origins)
    z = panel.get_targets(int(origins[0]), int(origins[-1]) + 1)
    y, seasonal = (
        panel.dataset.kind.decode_outcome(inner.about.target, z[where[:, 0] - origins[0], where[:, 1]]),
        build_seasonal_from_panel(panel),
    )
    scaling = (
        None
        if seasonal is None
        else seasonal.scaling_errors(y, where[:, [0]], where[:, [1]], np.arange(1, y.shape[1] + 1))
    )
    point = panel.dataset.kind.decode(inner.about.target, panel.dataset.kind.link(fit.predict(x)))
    loss = inner.primary_loss[1](y, point, scaling)
    return float(np.nanmean(loss))


def _list_steady(search: SearchParams) -> tuple[str, ...]:
    """Objectives that are the same in each run, the error first."""
    return tuple(o for o in search.objectives if o not in VARIES)


def _convert_infinite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _compute_gain(searched: SearchResult) -> float:
    """How much smaller the inner error got, as a share; 0 where there was nothing to compare
    with.
    """
    return (
        0.0
        if searched.chosen is None or not np.isfinite(searched.start_error) or not searched.start_error
        else 1 - searched.chosen.error / searched.start_error
    )


def _build_full_params(ground: FitContext) -> dict[str, Any]:
    """The model's parameters, those that params.yaml leaves to it included, for `when`."""
    params = getattr(ground.build(), "params", None)
    return {**(params.model_dump() if params is not None else {}), **ground.own}


def _parse_params(params: dict[str, Any], search: SearchParams) -> dict[str, Any]:
    """What the study kept, as values, in the order of the space."""
    return {name: axis.read(params[name]) for name, axis in search.space.items() if name in params}


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


def _write_fronts(
    key: str, trials: list[SearchTrial], search: SearchParams, chosen: SearchTrial | None
) -> None:
    """In the study's folder, since they may hold what varies: the front as a table, and a
    picture for each objective beside the error.
    """
    if search.objectives[1:]:
        best = find_pareto_front(trials, search.objectives)
        write_json(
            get_study_folder(key) / "front.json",
            [{"trial": t.number, "params": t.params, **t.values} for t in best],
        )
        for objective in search.objectives[1:]:
            write_text(
                get_study_folder(key) / f"front_{objective}.svg",
                _render_front_chart(trials, objective, chosen),
            )


def _render_front_chart(trials: list[SearchTrial], objective: str, chosen: SearchTrial | None) -> str:
    """Every complete trial by *objective* and error, with the front of the two."""
    complete = [t for t in trials if t.state == "complete"]
    best = find_pareto_front(complete, ("error", objective))
    points = [(t.values[objective], t.error) for t in complete]
    return render_front(
        points,
        {i for i, t in enumerate(complete) if t in best},
        objective,
        None if chosen is None else complete.index(chosen),
    )


def _format_result(searched: SearchResult) -> str:
    weighed = [
        f"{one.param} {100 * one.shares['error']:.0f} %" for one in searched.importances if one.shares
    ][:3]
    depends = (
        f"the error depends on {', '.join(weighed)}"
        if weighed
        else f"too few to say what the error depends on ({LEAST_TRIALS} must come to an end)"
    )
    n = (
        f"{len(searched.trials)} trials, {sum(t.state == 'pruned' for t in searched.trials)} pruned;"
        f" {depends}"
    )
    if searched.chosen is None:
        return (
            f"{n}; none is better than the parameters in params.yaml, inner error {searched.start_error:.4g}"
        )
    return (
        f"{n}; {searched.chosen.params}, inner error {searched.chosen.error:.4g}, before"
        f" {searched.start_error:.4g}"
    )


def build_mlflow_logger(dataset: str, model: str, data_hash: str) -> TrialLogger:
    """Each search as a run of *dataset*, each of its trials as a run nested in it; a trial that
    is told twice is one run.
    """
    parents: dict[str, str] = {}
    tags = {"tidemill.data": data_hash, "tidemill.dataset": dataset, "tidemill.model": model}

    def tell(key: str, began_ns: int, trial: SearchTrial | None) -> None:
        name, own = f"search-{model}-{key[:8]}", {**tags, "tidemill.search": key}
        if trial is None:
            parents[key] = log_run(dataset, name, {}, {}, own, ended_ns=began_ns)
        else:
            own |= {"tidemill.state": trial.state}
            log_run(
                dataset,
                f"{name}-{trial.place}",
                trial.params,
                trial.values,
                own,
                parent=parents[key],
                ended_ns=trial.ended_ns,
            )

    return tell
