"""Parameters of monitoring."""

from typing import Annotated

from pydantic import Field

from tasks.core.about import Strict


class MonitorParams(Strict):
    """When figures count, and how sensitive the drift statistic is.

    min_rows: fewer forecast steps that came true say nothing about error or coverage. cusum_slack, cusum_limit: in standard deviations
    of a block mean; .5 and 8 gave .03 false alarms per stream and 30 days, and a delay of 7 days at a shift of 1 sd (findings, 4).
    sample: rows on each side of Evidently's page.
    """

    min_rows: Annotated[int, Field(ge=1)]
    cusum_slack: Annotated[float, Field(ge=0)] = 0.5
    cusum_limit: Annotated[float, Field(gt=0)] = 8.0
    sample: Annotated[int, Field(ge=100)] = 2000
