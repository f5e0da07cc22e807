"""What a target's kind decides, so that no stage needs to know it.

Three spaces. An outcome y is in the target's unit. Models work in the space of z = `encode`(y):
what they are fitted to, and what their graphs give. Members are combined and calibrated in a space
of the kind's own, where a member's forecast is `link`(z_hat); `decode` leads from there to the
values of the forecast's columns. A forecast has one or more columns; the first is the point, which
the primary score judges.

Another kind is one class with these methods and one entry of KINDS.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from tasks.core.about import About, Target
from tasks.core.scores import ScalingErrors

Array = np.ndarray
Loss = Callable[[Array, Array, ScalingErrors | None], Array]  # of y and point, in the target's unit


class CalibrationSpec(NamedTuple):
    """How a calibration is set up.

    n_outcomes: newest outcomes that a pool keeps.
    adapt_rate: how fast levels follow misses.
    block: cutoffs after which outcomes count as independent.
    has_bases: whether members forecast the further columns themselves.
    """

    n_outcomes: int
    adapt_rate: float = 0.0
    block: int = 1
    has_bases: bool = False


class Calibrator(Protocol):
    """What was learned from outcomes, by pool and step: `issue`, then `learn`, cutoff by cutoff.

    m forecasts of H steps; a pool of -1 is that of a series never seen, which uses all pools.
    """

    @property
    def n_kept(self) -> int:
        """Numbers of an issued forecast that `learn` needs again."""

    @property
    def nbytes(self) -> int:
        """Memory that a copy takes."""

    @property
    def is_interval(self) -> bool:
        """Whether the outer further columns are the ends of an interval around the point."""

    def issue(self, pool: Array) -> Array:
        """(m, H, n_kept) for forecasts of the pools (m,); NaN where nothing is known."""

    def learn(self, pool: Array, step: Array, lesson: Array, kept: Array) -> None:
        """Learn outcomes.

        pool, step: (m,), steps from 0.
        lesson: (m, L).
        kept: (m, n_kept), or (m, 0) where nothing was issued.
        """

    def compute_points(self, pool: Array, z_hat: Array, scale: Array) -> Array:
        """(m, H) calibrated points of the combined forecasts z_hat (m, H), with scales (m,)."""

    def compute_further(self, kept: Array, z_hat: Array, scale: Array, bases: Array | None) -> Array:
        """(m, H, C - 1) the further columns; bases (m, H, C - 1) the members' own."""


class Kind(Protocol):
    """One kind of target.

    baselines: forecasters that a first model must beat.
    combiners: names of those that suit, the simplest first.
    train_scores: element scores of a model alone.
    calibration_scores: element scores that judge the calibration.
    charts: names of the ensemble's charts.
    """

    @property
    def name(self) -> str:
        """As in `about.target.kind`."""

    @property
    def baselines(self) -> tuple[str, ...]:
        """See the class."""

    @property
    def combiners(self) -> tuple[str, ...]:
        """See the class."""

    @property
    def train_scores(self) -> tuple[str, ...]:
        """See the class."""

    @property
    def calibration_scores(self) -> tuple[str, ...]:
        """See the class."""

    @property
    def charts(self) -> tuple[str, ...]:
        """See the class."""

    def check(self, about: About) -> None:
        """Raise ParamsError for a score or transform that this kind does not have."""

    def list_columns(self, about: About) -> tuple[str, ...]:
        """The C columns of a forecast, the point first."""

    def get_level(self, about: About) -> float | None:
        """Share of outcomes that the interval should hold; None without an interval."""

    def encode(self, target: Target, column: str = "y") -> pl.Expr:
        """z of the outcome *column*; null where it has none."""

    def decode_outcome(self, target: Target, z: Array) -> Array:
        """An outcome whose encoding is z."""

    def link(self, z_hat: Array) -> Array:
        """A model's output in the space in which members are combined."""

    def encode_point(self, target: Target, point: Array) -> Array:
        """A member's point (n,) in that space; NaN where it has none."""

    def decode(self, target: Target, columns: Array) -> Array:
        """Values of the columns from that space; any shape."""

    def decode_columns(self, about: About, columns: Array) -> Array:
        """Values (..., C) of whole forecasts from that space, as they are served and scored."""

    def compute_member_error(self, z: Array, z_hat: Array) -> Array:
        """Error of linked forecasts, by whose products members are weighted; NaN where unknown."""

    def is_absolute(self, about: About) -> bool:
        """Whether members are pruned by their mean absolute error, not by their mean square."""

    def build_lessons(self, z: Array, z_hat: Array, scale: Array, bases: Array | None) -> Array:
        """(K, S, H, L) what calibration learns of each forecast; NaN where there is nothing.

        z, z_hat: (K, S, H).
        scale: (K, S).
        bases: (K, S, H, C - 1).
        """

    def build_calibrator(
        self, about: About, spec: CalibrationSpec, n_pools: int, horizon_steps: int
    ) -> Calibrator:
        """A calibrator that has learned nothing yet."""

    def select_loss(self, about: About, model_params: Mapping[str, Any]) -> tuple[str, Loss]:
        """Name and loss by which a model alone is judged."""

    def compute_loss(
        self, about: About, y: Array, point: Array, scaling_errors: ScalingErrors | None = None
    ) -> Array:
        """Primary loss of each element, NaN where y or the point is unknown."""

    def compute_error(self, about: About, y: Array, point: Array) -> Array:
        """Forecast less outcome of each element."""

    def compute_coverage(self, forecasts: pl.DataFrame) -> float | None:
        """Share of known y within the widest interval of the frame; None without one."""

    def score_elements(
        self,
        about: About,
        forecasts: pl.DataFrame,
        names: Sequence[str],
        scaling_errors: ScalingErrors | None = None,
    ) -> pl.DataFrame:
        """The forecasts with known y, with `year` of their cutoff and a column for each score.

        A score is null where unknown; `primary` is the primary loss.
        """

    def score_outcomes(
        self, about: About, forecasts: pl.DataFrame, scaling_errors: ScalingErrors | None = None
    ) -> pl.DataFrame:
        """*forecasts* with the monitored figures of each row: loss, error, is_covered."""

    def build_answer(self, about: About, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of one forecast step as the service answers them."""
