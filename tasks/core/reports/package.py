"""models/release/provenance.json: where a release comes from. It is outside the digest."""

from typing import ClassVar

from pydantic import field_validator

from tasks.core.reports.base import ABSENT, IsoTime, Report
from tasks.core.reports.quantize import QuantizeDecision
from tasks.core.strict import Strict

CARD_NAME = "model_card.md"
PACKAGED_REPORTS = "reports"  # folder of the files that the card was made from, under their usual paths


class CodeState(Strict):
    """The code that built the release.

    commit: of the checkout; null without git.
    uncommitted: sha256 of what differs from it, untracked files included; null when nothing does.
    """

    commit: str | None
    uncommitted: str | None


class EvaluationFigures(Strict):
    """What the evaluation found out of sample.

    primary_score: the score's name.
    score, baseline_score: the release's mean loss and the baseline's, in the score's unit.
    baseline: the best naive model.
    n_cutoffs: cutoffs that were scored.
    level: share of outcomes that the interval should hold; null without an interval.
    coverage_frac: share that it held.
    """

    primary_score: str
    score: float | None
    baseline: str
    baseline_score: float | None
    n_cutoffs: int
    level: float | None
    coverage_frac: float | None


class OnlineFigures(Strict):
    """How far the packaged service is from training, on recent cutoffs.

    first_cutoff, last_cutoff: that were requested.
    n_series, n_histories: requested by name, and with a history of their own.
    n_features, n_forecasts: numbers that were compared.
    max_difference: the largest, relative to the number, or to its column's mean size if that is
      larger.
    limit: above which there is no release.
    """

    first_cutoff: IsoTime
    last_cutoff: IsoTime
    n_series: int
    n_histories: int
    n_features: int
    n_forecasts: int
    max_difference: float
    limit: float


class OnlineComparison(Report, OnlineFigures):
    """The features and forecasts of the packaged service, compared with those of training.

    digest: of the release.
    """

    PATH: ClassVar[str] = "models/release/online.json"

    digest: str


class Provenance(Report):
    """Where a release comes from, free of host names and paths.

    digest: of the release.
    code: the code that built it.
    built_at: the wall clock, UTC.
    versions: of Python and of the libraries that can change an answer.
    metrics: what the evaluation found; null without one.
    quantize: the decision on INT8; null when quantize has not run.
    bento_bytes: size of the Bento by folder, and `total`; absent in the copy inside the Bento.
    """

    PATH: ClassVar[str] = "models/release/provenance.json"

    digest: str
    code: CodeState
    built_at: IsoTime
    versions: dict[str, str]
    metrics: EvaluationFigures | None = None
    quantize: QuantizeDecision | None = None
    bento_bytes: dict[str, int] | None = ABSENT

    @field_validator("metrics", "quantize", mode="before")
    @classmethod
    def _read_empty(cls, value: object) -> object:
        """An earlier version wrote {} where there was none."""
        return None if value == {} else value
