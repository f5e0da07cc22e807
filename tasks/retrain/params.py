"""Parameters of the decision to retrain."""

from typing import Annotated

from pydantic import Field

from tasks.core.reports.retrain import RetrainLimits


class RetrainParams(RetrainLimits):
    """When retraining is due.

    max_age_steps: steps of data since the last training that the gate judged.
    The limits of error and coverage are those by which the monitor calls a champion degraded, too.
    """

    max_age_steps: Annotated[int, Field(ge=1)]
