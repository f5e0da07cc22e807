"""`rollout` of params.yaml, what outcomes say of a challenger, and which series it answers for."""

import hashlib
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.core.strict import Strict

SECTION = "rollout"
Share = Annotated[float, Field(ge=0, le=1)]


class RolloutParams(Strict):
    """How a release that passed the gate takes over.

    steps_frac: the challenger's share of the series, step by step up to 1, where it is champion; a
      first step of 0 is shadow, in which requests are mirrored to it. Empty: it is champion
      immediately.
    rule: `steps`: the weight rises with the evidence. `ab`: the challenger keeps its share, the
      first of two steps, until one of both has won or the time is over.
    alpha: chance to take over without being better, and chance to go back without being worse.
    margin_frac: a challenger whose loss is above the champion's by less than this share takes over.
    min_outcomes: cutoffs of a step whose outcomes are known before the next step.
    max_steps: steps of data after which a challenger that is neither better nor worse goes back.
    max_errors: requests that the challenger failed and the champion answered.
    max_latency_ratio: of the answers' 95th percentiles, challenger over champion.
    """

    steps_frac: tuple[Share, ...] = ()
    rule: Literal["steps", "ab"] = "steps"
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    margin_frac: Annotated[float, Field(ge=0, lt=1)] = 0.0
    min_outcomes: Annotated[int, Field(ge=1)] = 5
    max_steps: Annotated[int, Field(ge=1)] = 120
    max_errors: Annotated[int, Field(ge=0)] = 3
    max_latency_ratio: Annotated[float, Field(gt=1)] = 3.0

    @property
    def bet_alpha(self) -> float:
        """Level of each bet; an A/B test may stop for either side, and each has half."""
        return self.alpha / 2 if self.rule == "ab" else self.alpha

    @model_validator(mode="after")
    def _check_rule(self) -> Self:
        if self.rule == "ab" and len(self.steps_frac) != 2:
            raise ValueError(
                f"an A/B test has one share, and then all: `steps_frac` is {list(self.steps_frac)}; for"
                " example [0.5, 1]"
            )
        return self

    @field_validator("steps_frac")
    @classmethod
    def _check_steps(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        rises = all(earlier < later for earlier, later in pairwise(steps))
        if steps and (len(steps) < 2 or steps[-1] != 1 or not rises):
            raise ValueError(
                f"{list(steps)} are no steps: each is above the one before, and the last of at least two is"
                " 1; for example [0.1, 0.25, 0.5, 1]"
            )
        return steps


class RolloutEvidence(Strict):
    """What the outcomes since a rollout began say.

    n_cutoffs: whose outcomes are known.
    n_blocks: complete ones, which the bets count.
    gain_frac: share by which the challenger's mean loss is lower; null without a cutoff.
    better: value now of the bet that the challenger is not better than the margin asks for.
    worse: largest value so far of the bet that the challenger is not worse.
    """

    n_cutoffs: int
    n_blocks: int
    gain_frac: float | None
    better: float
    worse: float


def is_assigned(key: str, salt: str, weight: float) -> bool:
    """Whether the challenger answers for *key* while its share is *weight*.

    A key that it answers for at one weight it answers for at every larger one. salt: of the
    rollout, so that another one begins with other keys.
    """
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < weight * 2**64
