"""data/decisions/promote/decision.json: who answers from now on, and why."""

from typing import ClassVar, Literal

from tasks.core.reports.base import ABSENT, IsoTime, Report
from tasks.core.reports.package import OnlineFigures
from tasks.core.strict import Strict

Verdict = Literal["promote", "keep", "inconclusive", "nothing", "baseline"]


class PairedFigures(Strict):
    """One figure of both sides of the gate.

    challenger, opponent: of the release that wants to answer, and of the champion or baseline.
    """

    challenger: float | None
    opponent: float | None


class JudgedModels(Strict):
    """Names of what was judged.

    challenger, champion: the model of each; null without a champion.
    """

    challenger: str
    champion: str | None


class GateVerdict(Strict):
    """What the gate found.

    decision: `promote` (the challenger answers), `keep` (the champion), `inconclusive` (too few
      cutoffs, the champion), `nothing` (challenger and champion are one release) or `baseline`.
    reason: why, in a sentence.
    challenger_digest, champion_digest: of the releases; null without a champion.
    opponent_digest: what the challenger was compared with; absent when nothing was.
    winner_digest: who becomes champion; null when nothing changes.
    challenger_as_of: newest `known_at` of the data that the challenger was built from.
    seen_until: what the challenger was fitted on was known by then.
    primary_score: the loss that decides.
    n_cutoffs: cutoffs since both were fitted whose outcomes are known.
    gain_frac: share by which the challenger's scaled loss is lower; null for too few cutoffs.
    p: chance of such a gain from luck alone; null for too few cutoffs.
    alpha: level of the test, what earlier gates at the same rows have left of `promote.alpha`;
      absent when nothing was compared.
    first_cutoff, last_cutoff: that were compared; absent when none was.
    mean_loss: of both sides, in the primary score's unit.
    coverage_frac: share of outcomes within the outermost quantiles, of both sides.
    models: the models' names.
    """

    decision: Verdict
    reason: str
    challenger_digest: str
    champion_digest: str | None
    opponent_digest: str | None = ABSENT
    winner_digest: str | None
    challenger_as_of: IsoTime
    seen_until: IsoTime
    primary_score: str
    n_cutoffs: int
    gain_frac: float | None
    p: float | None
    alpha: float | None = ABSENT
    first_cutoff: IsoTime | None = ABSENT
    last_cutoff: IsoTime | None = ABSENT
    mean_loss: PairedFigures | None
    coverage_frac: PairedFigures | None
    models: JudgedModels


class GateKey(Strict):
    """All that a verdict follows from, the champion apart.

    challenger, baseline: digests of the releases.
    rows: sha256 of the clean rows.
    params: the gate's parameters.
    """

    challenger: str
    baseline: str
    rows: str
    params: dict[str, int | float]


class GateDecision(Report, GateVerdict):
    """The gate's verdict, and what it is about.

    dataset: whose release it is.
    key: what the verdict follows from; with the same key the verdict stays.
    as_of: newest `known_at` of the rows that decided.
    applied: whether this run changed the checkout's own registry.
    online: the packaged service against training; absent for a release without a Bento.
    """

    PATH: ClassVar[str] = "data/decisions/promote/decision.json"

    dataset: str
    key: GateKey
    as_of: IsoTime
    applied: bool
    online: OnlineFigures | None = ABSENT
