"""Schemas of explanations; see shapes.py."""

from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

_CLOSED = ConfigDict(extra="forbid")


@with_config(_CLOSED)
class FeatureValue(TypedDict):
    """A feature as the members read it, and the newest row that goes into it.

    event_time: of that row; null where none goes into it.
    """

    value: Annotated[float | None, Field(description="In the space of the models; null where unknown.")]
    event_time: str | None
    known_at: Annotated[str | None, Field(description="null for what follows from the step alone.")]


@with_config(_CLOSED)
class StepExplanation(TypedDict):
    """base, features, members, calibration and bounds add up to y_hat, in the answer's unit.

    base: the mean forecast of rows that the release was fitted on.
    """

    step: int
    event_time: str
    y_hat: float
    base: float
    features: Annotated[
        dict[str, float], Field(description="Contribution of each feature that a member reads.")
    ]
    members: Annotated[
        dict[str, float],
        Field(
            description=(
                "Undivided contribution of each member that has no explainer: its result depends on what else"
                " is in the batch, or it has none for other rows."
            )
        ),
    ]
    calibration: Annotated[
        float, Field(description="What the errors of the past add to the ensemble's forecast.")
    ]
    bounds: Annotated[float, Field(description="What the nearest allowed value adds to that.")]


@with_config(_CLOSED)
class SeriesExplanation(TypedDict):
    """The explanation of a forecast: Shapley values of the members, summed by their weights."""

    series_id: str
    weights: Annotated[dict[str, float], Field(description="Of each member, the mean over the steps.")]
    values: dict[str, FeatureValue]
    steps: list[StepExplanation]
    n_orders: Annotated[int, Field(description="Orders in which features were added, each both ways.")]
    n_background: Annotated[int, Field(description="Rows that stand for an unknown feature.")]
