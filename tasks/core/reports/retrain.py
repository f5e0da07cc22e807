"""data/decisions/retrain/decision.json: whether retraining is due, and why."""

from typing import ClassVar

from tasks.core.reports.base import IsoTime, Report
from tasks.core.strict import Strict


class RetrainFacts(Strict):
    """The monitor's figures that decided, as they are in its report; null without a champion.

    digest, version: the champion.
    trained_as_of: newest `known_at` of the data of the last training that the gate judged.
    age_steps: steps of data since then.
    n_known: forecast steps since the promotion with an outcome.
    error_ratio: loss since the promotion over the loss on the gate's rows.
    coverage_frac: share of outcomes within the interval.
    """

    digest: str | None = None
    version: str | None = None
    trained_as_of: IsoTime | None = None
    age_steps: int | None = None
    n_known: int | None = None
    error_ratio: float | None = None
    coverage_frac: float | None = None


class RetrainDecision(Report):
    """Whether retraining is due.

    due: whether the flow `retraining` trains now.
    triggers: the limits that were passed: age, error, coverage, drift.
    reasons: each of them in a sentence.
    reason: all of them, or why nothing is due.
    held: why a passed limit starts nothing now; null when nothing is held back.
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
    facts: RetrainFacts
    as_of: IsoTime
    dataset: str
