"""Parameters of the decision to retrain."""

from typing import Annotated

from pydantic import Field

from tasks.core.strict import Strict


class RetrainParams(Strict):
    """When retraining is due.

    max_age_steps: steps of data since the last training that the gate judged.
    max_error_ratio: loss of the champion's own forecasts since its promotion, over its loss in the
    gate.
    min_coverage_frac: coverage of their intervals.
    """

    max_age_steps: Annotated[int, Field(ge=1)]
    max_error_ratio: Annotated[float, Field(gt=0)]
    min_coverage_frac: Annotated[float, Field(ge=0, le=1)]
