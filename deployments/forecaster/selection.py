"""What of a forecast is sent: its first steps, and the quantiles of the requested intervals."""

from math import isclose
from typing import NamedTuple, cast

from deployments.forecaster import shapes
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import SeriesRequest
from tasks.core.about import About

MEDIAN = 0.5


class Selection(NamedTuple):
    """horizon_steps: the first steps. quantiles: their names, as in an answer."""

    horizon_steps: int
    quantiles: frozenset[str]

    def select(self, series: shapes.Series) -> shapes.Series:
        """What of *series* is sent; the step of another kind of target has no quantiles."""
        steps = [
            {
                name: {q: v for q, v in value.items() if q in self.quantiles}
                if name == "quantiles"
                else value
                for name, value in cast("dict[str, dict[str, float]]", step).items()
            }
            for step in series["steps"][: self.horizon_steps]
        ]
        return {**series, "steps": cast("list[shapes.Step]", steps)}


def find_selection(about: About, request: SeriesRequest, *, has_intervals: bool) -> Selection | None:
    """What *request* selects; None: the whole forecast.

    Raises ProblemError 422 for more steps than the release has, and for a level that it has not.
    """
    if request.horizon_steps is None and request.levels is None:
        return None
    horizon_steps = request.horizon_steps or about.horizon_steps
    if horizon_steps > about.horizon_steps:
        raise ProblemError(
            422,
            "horizon_steps",
            f"{horizon_steps} steps",
            f"This release forecasts {about.horizon_steps} steps of {about.every}.",
            f"Ask for 1 to {about.horizon_steps}, or leave it out.",
        )
    if request.levels is None:
        return Selection(horizon_steps, frozenset(f"{q:g}" for q in about.quantiles))
    return Selection(horizon_steps, _find_quantiles(about.quantiles if has_intervals else (), request.levels))


def list_levels(quantiles: tuple[float, ...]) -> dict[float, tuple[float, float]]:
    """By the share of outcomes that it should hold, the ends of each interval around the median."""
    return {
        round(high - low, 10): (low, high)
        for low in quantiles
        for high in quantiles
        if low < MEDIAN and isclose(low + high, 1)
    }


def _find_quantiles(quantiles: tuple[float, ...], levels: list[float]) -> frozenset[str]:
    """Names of the ends of *levels*, and of the median where there is one."""
    known = list_levels(quantiles)
    ends: set[float] = {MEDIAN} & set(quantiles)
    for level in levels:
        found = next((pair for name, pair in known.items() if isclose(name, level)), None)
        if found is None:
            raise ProblemError(
                422,
                "levels",
                f"no interval of level {level:g}",
                f"This release has the levels {', '.join(f'{name:g}' for name in known) or '(none)'}.",
                "Ask for a subset of them, or leave it out.",
            )
        ends |= set(found)
    return frozenset(f"{q:g}" for q in ends)
