"""data/forecasts/<model> and models/fits/<model>: the walk, its scores, what was chosen in it."""

from typing import Any, ClassVar

from pydantic import AliasChoices, Field, JsonValue

from tasks.core.folds import WalkForward
from tasks.core.reports.base import IsoTime, Report
from tasks.core.strict import Strict

ScoreRow = dict[str, str | int | float | None]  # what it is of, a mean of each score, and n


class FoldPlan(Strict):
    """One refit and the cutoffs that it serves.

    fit_at: the cutoff as of which the fit is made.
    learns_from: start of the first step that it learns from.
    n_rows: rows that its window holds.
    first_cutoff, last_cutoff, n_cutoffs: what it forecasts.
    fit_origin, first_origin, last_origin: steps of fit_at and of these, counted from 0.
    done: false where the budget ended before the fit.
    """

    fit_at: IsoTime
    learns_from: IsoTime
    n_rows: int
    first_cutoff: IsoTime
    last_cutoff: IsoTime
    n_cutoffs: int
    fit_origin: int
    first_origin: int
    last_origin: int
    done: bool


class PlanReport(Report):
    """plan.json: the walk, before and after it was done. Equal runs give equal files.

    refit: `full`, `warm` or `frozen`.
    n_steps, n_series: of the history.
    horizon_steps: steps of a forecast.
    n_fits: fits that the folds and the release need.
    n_cutoffs: cutoffs of the walk.
    n_cutoffs_left_out: of these without forecasts, since the budget ended.
    seen_until: the cutoff as of which the shipped fit is made.
    last_origin: the step of seen_until, counted from 0.
    release_origin: the step as of which the shipped fit is made.
    walk: how it is walked.
    folds: ascending.
    """

    PATH: ClassVar[str] = "data/forecasts/<model>/plan.json"

    refit: str
    n_steps: int
    n_series: int
    horizon_steps: int
    n_fits: int
    n_cutoffs: int
    n_cutoffs_left_out: int
    seen_until: IsoTime
    last_origin: int
    release_origin: int
    walk: WalkForward
    folds: tuple[FoldPlan, ...]


class MetricsReport(Report):
    """metrics.json: mean losses over all cutoffs with a known outcome, of the model alone.

    overall: one row.
    by_series, by_step, by_year, by_cutoff: a row for each; cutoffs count from 1.
    """

    PATH: ClassVar[str] = "data/forecasts/<model>/metrics.json"

    overall: ScoreRow
    by_series: tuple[ScoreRow, ...]
    by_step: tuple[ScoreRow, ...]
    by_year: tuple[ScoreRow, ...]
    by_cutoff: tuple[ScoreRow, ...]


class FittedFold(Strict):
    """A fold with forecasts.

    fit_at: the cutoff as of which its fit was made.
    n_cutoffs: cutoffs that it serves.
    """

    fit_at: IsoTime
    n_cutoffs: int


class StartingFit(Strict):
    """The fit that the first one goes on from.

    folder: as in params.yaml.
    sha256: of the fit.
    """

    folder: str
    sha256: str


class FitReport(Report):
    """fit.json: what the shipped fit is.

    model: as listed in params.yaml.
    forecaster: its kind.
    seen_until: nothing known later went into the fit.
    as_of: newest cutoff of the features.
    folds: those with forecasts.
    params: the model's parameters, with what a search chose.
    refit: `full`, `warm` or `frozen`.
    start_from: null when the first fit began from nothing.
    stride_steps: distance of the cutoffs.
    """

    PATH: ClassVar[str] = "models/fits/<model>/fit.json"

    model: str
    forecaster: str
    seen_until: IsoTime
    as_of: IsoTime
    folds: tuple[FittedFold, ...]
    params: dict[str, JsonValue]
    refit: str
    start_from: StartingFit | None
    stride_steps: int


class ChosenParams(Strict):
    """What a search chose.

    trial: its number; null when no trial was better than params.yaml.
    params: what the trial drew.
    model_params: all of the model's parameters, with these in their place.
    """

    trial: int | None
    params: dict[str, JsonValue]
    model_params: dict[str, JsonValue] = Field(validation_alias=AliasChoices("model_params", "own"))


class InnerErrors(Strict):
    """Mean losses of the inner walk: the least of many tries, so they flatter.

    error: of what was chosen.
    error_before: of params.yaml; null where the model refuses it.
    n_cutoffs: cutoffs of the inner walk.
    """

    error: float
    error_before: float | None
    n_cutoffs: int


class OuterErrors(Strict):
    """Mean losses over the cutoffs of the fold after the search, which no trial saw.

    error: of what was chosen.
    error_before: of params.yaml; null where the model refuses it.
    gain: share by which the loss fell.
    n_cutoffs: cutoffs of the fold.
    """

    error: float
    error_before: float | None
    gain: float
    n_cutoffs: int


class SearchEntry(Strict):
    """One search.

    as_of: the cutoff that it knows.
    study: names the folder of its trials, TIDEMILL_HOME/search/<study>.
    score: the loss that trials are compared by.
    n_trials: trials that came to an end.
    states: how many were complete, pruned and refused.
    chosen, inner, outer: what was chosen and what it was worth; outer is null without a fit.
    overfit: inner_gain less the gain outside; null without it.
    inner_gain: share by which the inner error fell.
    front: numbers of the trials that none beats in all objectives.
    importances: share of the objectives' variance that each parameter explains; `why` where there
      is none.
    trials: each with what it drew and its objectives; `why` where the model refused it.
    """

    as_of: IsoTime
    study: str = ""
    score: str
    n_trials: int
    states: dict[str, int]
    chosen: ChosenParams
    inner: InnerErrors
    outer: OuterErrors | None
    overfit: float | None
    inner_gain: float
    front: tuple[int, ...]
    importances: tuple[ScoreRow, ...]
    trials: tuple[dict[str, JsonValue], ...]


class SearchReport(Report):
    """search.json: parameters chosen inside the windows.

    searches: in the order of time.
    """

    PATH: ClassVar[str] = "models/fits/<model>/search.json"

    searches: tuple[SearchEntry, ...]

    @classmethod
    def parse(cls, content: Any, source: str) -> "SearchReport":
        """See Report; a file of an earlier version is the list alone."""
        return super().parse({"searches": content} if isinstance(content, list) else content, source)


class FoldColumns(Strict):
    """The choice of one fit.

    fit_at: the cutoff as of which the fit was made.
    columns: what it sees, of those that it could do without.
    """

    fit_at: IsoTime
    columns: tuple[str, ...] = Field(validation_alias=AliasChoices("columns", "kept"))


class SelectionReport(Report):
    """selection.json: columns chosen inside the windows.

    folds: each fit's choice.
    kept_frac: by column, share of fits that see it.
    stability: 1 is always the same choice, 0 what chance gives; null for one choice, or of all or
      nothing.
    """

    PATH: ClassVar[str] = "models/fits/<model>/selection.json"

    folds: tuple[FoldColumns, ...]
    kept_frac: dict[str, float]
    stability: float | None
