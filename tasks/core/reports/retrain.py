"""data/decisions/retrain/decision.json: whether retraining is due, and why."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.core.reports.base import IsoTime, Report
from tasks.core.strict import Strict

Recipe = Literal["full", "window", "search"]  # see `RetrainDecision`


class RetrainLimits(Strict):
    """What the champion's own forecasts since its promotion must keep to.

    max_error_ratio: their loss, over its loss in the gate.
    min_coverage_frac: coverage of their intervals.
    min_blocks: with fewer blocks of outcomes, each as long as the horizon, neither limit counts:
      outcomes within one block are shared by its forecasts, so they are one piece of evidence.
    """

    max_error_ratio: Annotated[float, Field(gt=0)]
    min_coverage_frac: Annotated[float, Field(ge=0, le=1)]
    min_blocks: Annotated[int, Field(ge=1)] = 20

    def list_breaches(
        self, error_ratio: float | None, coverage_frac: float | None, n_blocks: int
    ) -> dict[str, str]:
        """`error` and `coverage`, where the limit is passed: a sentence; None passes none."""
        breaches: dict[str, str] = {}
        if n_blocks < self.min_blocks:
            return breaches
        if error_ratio is not None and error_ratio > self.max_error_ratio:
            breaches["error"] = (
                f"the loss since the promotion is {error_ratio:.2f} times the gate's, more than"
                f" {self.max_error_ratio:g}"
            )
        if coverage_frac is not None and coverage_frac < self.min_coverage_frac:
            breaches["coverage"] = (
                f"{coverage_frac:.0%} of outcomes are within the interval, less than"
                f" {self.min_coverage_frac:.0%}"
            )
        return breaches


class RetrainFacts(Strict):
    """The monitor's figures that decided, as they are in its report; null without a champion.

    digest, version: the champion.
    trained_as_of: newest `known_at` of the data of the last training that the gate judged.
    age_steps: steps of data since then.
    n_known: forecast steps since the promotion with an outcome.
    n_blocks: independent blocks of these outcomes, each as long as the horizon.
    error_ratio: loss since the promotion over the loss on the gate's rows.
    coverage_frac: share of outcomes within the interval.
    changed_columns: of the rows, against those that the champion was trained on: `+name`, `-name`,
      or `name: Float64 -> String`.
    """

    digest: str | None = None
    version: str | None = None
    trained_as_of: IsoTime | None = None
    age_steps: int | None = None
    n_known: int | None = None
    n_blocks: int | None = None
    error_ratio: float | None = None
    coverage_frac: float | None = None
    changed_columns: tuple[str, ...] = ()


class RetrainDecision(Report):
    """Whether retraining is due.

    due: whether the flow `retraining` trains now.
    triggers: what makes it due: age, error, coverage, drift, schema, interrupted.
    reasons: each of them in a sentence.
    reason: all of them, or why nothing is due.
    held: why no retraining may start now, whatever has been passed; null when one may.
    recipe: how the next one trains: `full` as params.yaml says, `window` with each model also on
      the newer half of its history, `search` like `window` with a longer search of parameters.
    recipe_reason: why, in a sentence.
    facts: the figures that decided.
    as_of: newest `known_at` of the rows.
    dataset: whose champion it is.
    """

    PATH: ClassVar[str] = "data/decisions/retrain/decision.json"

    due: bool
    triggers: tuple[str, ...] = ()
    reasons: tuple[str, ...]
    reason: str
    held: str | None = None
    recipe: Recipe = "full"
    recipe_reason: str = ""
    facts: RetrainFacts
    as_of: IsoTime
    dataset: str
