"""Parameters of the decision to retrain."""

from typing import Annotated

from pydantic import Field

from tasks.core.reports.retrain import RetrainLimits


class RetrainParams(RetrainLimits):
    """When retraining is due, and how often at most.

    The limits of error and coverage are those by which the monitor calls a champion degraded, too.
    max_age_steps: steps of data since the last training that the gate judged.
    max_drift_error_ratio: of the error while the inputs drift. Drift alone is no reason.
    cooldown_steps: steps after the data of one retraining before the next.
    max_per_week: retrainings in any seven days of data.
    worse_frac: how much worse a figure must be than at the last retraining, when that brought no
    other champion, before it is a reason again.
    search_after: retrainings in vain, one after the other, before the next searches parameters.
    """

    max_age_steps: Annotated[int, Field(ge=1)]
    max_drift_error_ratio: Annotated[float, Field(gt=0)] = 1.1
    cooldown_steps: Annotated[int, Field(ge=0)] = 5
    max_per_week: Annotated[int, Field(ge=1)] = 2
    worse_frac: Annotated[float, Field(ge=0)] = 0.1
    search_after: Annotated[int, Field(ge=1)] = 2
