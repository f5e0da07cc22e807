"""Parameters of monitoring."""

from typing import Annotated

from pydantic import Field

from tasks.core.strict import Strict


class MonitorParams(Strict):
    """When figures count, and how many false alarms are allowed.

    min_rows: with fewer outcomes there are no figures of error and coverage.
    max_cutoffs: of the champion's forecasts since its promotion that are judged, the newest.
    alarms_per_30_days: budget of false alarms of each watched stream, of the coverage of each level
    and of the loss.
    cusum_slack: half of the shift to detect, in standard deviations of a block mean.
    block_steps: of a block of the inputs; 0 for a day, or a season where that is shorter. A shorter
    one alarms sooner, a longer one finds smaller changes.
    sample: rows on each side of Evidently's page.
    """

    min_rows: Annotated[int, Field(ge=1)]
    max_cutoffs: Annotated[int, Field(ge=1)] = 250  # as many as the default gate has
    alarms_per_30_days: Annotated[float, Field(gt=0, le=1)] = 0.05
    cusum_slack: Annotated[float, Field(ge=0)] = 0.5
    block_steps: Annotated[int, Field(ge=0)] = 0
    sample: Annotated[int, Field(ge=100)] = 2000
