"""Parameters of monitoring."""

from typing import Annotated

from pydantic import Field

from tasks.core.strict import Strict


class MonitorParams(Strict):
    """When figures count, and how sensitive the drift statistic is.

    min_rows: with fewer known outcomes, error and coverage are not reported.
    max_cutoffs: how many of the champion's forecasts since its promotion are judged, newest first.
    cusum_slack, cusum_limit: in standard deviations of a block mean; .5 and 8 gave .005 false
    alarms per stream and 30 days, and found a shift of one sd of the stream in 9 days
    (tests/monitor/test_drift.py).
    sample: rows on each side of Evidently's page.
    """

    min_rows: Annotated[int, Field(ge=1)]
    max_cutoffs: Annotated[int, Field(ge=1)] = 250  # as many as the default gate has
    cusum_slack: Annotated[float, Field(ge=0)] = 0.5
    cusum_limit: Annotated[float, Field(gt=0)] = 8.0
    sample: Annotated[int, Field(ge=100)] = 2000
