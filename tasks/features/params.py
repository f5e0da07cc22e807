"""The declared features. Each entry of `features.list` has a `kind`; a feature's name, `<column>_<kind>_<argument>`, fixes its computation for ever.

`column` is a received value column, `z` (the target after its transform) or `y` (the target in its unit). A window of w steps is the row
itself and the w - 1 steps before it; a lag of k is k steps before the row.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.core.about import Strict
from tasks.core.errors import FeatureInputError

EWM_CUT_SPANS = (
    4  # an ewm reads this many spans; what lies beyond has exp(-8) = 0.03 % of the weight. A constant, since the name must fix the computation
)

CalendarPart = Literal["minute", "hour", "weekday", "day", "day_of_year", "week", "month", "quarter"]


def _at_least(where: str, numbers: tuple[float, ...], least: int, why: str) -> None:
    if not numbers:
        raise FeatureInputError(f"`features.list`: {where} is empty; give at least one number, or drop the entry from params.yaml.")
    if bad := [n for n in numbers if n < least]:
        raise FeatureInputError(f"`features.list`: {where} has {bad}; {why}. Correct it in params.yaml.")


class Lag(Strict):
    """The value `steps` steps back, null where there is none: never filled, never borrowed from another series."""

    kind: Literal["lag"]
    column: str
    steps: tuple[int, ...]

    @model_validator(mode="after")
    def _looks_back(self) -> "Lag":
        _at_least(f"lag of {self.column!r}", self.steps, 1, "a lag looks back at least 1 step")
        return self


class Window(Strict):
    """Mean, standard deviation (n - 1), minimum or maximum of the last `window_steps` steps: of what is there, null when less than half is."""

    kind: Literal["mean", "std", "min", "max"]
    column: str
    window_steps: tuple[int, ...]

    @model_validator(mode="after")
    def _is_wide_enough(self) -> "Window":
        least = 2 if self.kind == "std" else 1
        _at_least(f"{self.kind} of {self.column!r}", self.window_steps, least, f"its window needs at least {least} step(s)")
        return self


class Quantile(Strict):
    """The quantile `q` of the last `window_steps` steps, linear between order statistics; missing values as for a mean."""

    kind: Literal["quantile"]
    column: str
    window_steps: tuple[int, ...]
    q: float

    @model_validator(mode="after")
    def _is_a_quantile(self) -> "Quantile":
        _at_least(f"quantile of {self.column!r}", self.window_steps, 1, "its window needs at least 1 step")
        if not 0 < self.q < 1:
            raise FeatureInputError(
                f"`features.list`: quantile of {self.column!r} has q {self.q}; q lies between 0 and 1, and `min` and `max` are kinds of their own."
            )
        return self


class Ewm(Strict):
    """Mean with weights (1 - 2 / (span + 1)) ** age, cut at 4 spans; missing values have no weight, and half of the steps must be there."""

    kind: Literal["ewm"]
    column: str
    span_steps: tuple[int, ...]

    @model_validator(mode="after")
    def _has_a_span(self) -> "Ewm":
        _at_least(f"ewm of {self.column!r}", self.span_steps, 1, "a span has at least 1 step")
        return self


class Return(Strict):
    """ln(value / value `steps` steps back); its absolute value; or min(return, 0). Null unless both values are positive."""

    kind: Literal["return", "abs_return", "negative_return"]
    column: str
    steps: tuple[int, ...]

    @model_validator(mode="after")
    def _looks_back(self) -> "Return":
        _at_least(f"{self.kind} of {self.column!r}", self.steps, 1, "a return looks back at least 1 step")
        return self


class Change(Strict):
    """How much the column moves over `steps` steps: the mean |value - value `steps` back| of the last `window_steps` steps, null when less than half is there.

    `steadiness` is the size of the column's mean over the same window in units of that: of a target it says how many times the seasonal
    naive error fits into the level, which turns an error in percent into one in MASE's units.
    """

    kind: Literal["change", "steadiness"]
    column: str
    steps: tuple[int, ...]
    window_steps: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _looks_back(self) -> "Change":
        _at_least(f"{self.kind} of {self.column!r}", self.steps, 1, "a change looks back at least 1 step")
        return self


class Calendar(Strict):
    """Parts of the step's start in UTC, as numbers: weekday 0 (Monday) to 6, month 1 to 12, and so on."""

    kind: Literal["calendar"]
    parts: tuple[CalendarPart, ...]


class GarmanKlass(Strict):
    """The step's own Garman-Klass volatility from open, high, low and close (see `garman_klass`)."""

    kind: Literal["garman_klass"]


class SeriesKey(Strict):
    """Whose row it is, for models that know series: two columns of 24 bits each of the id's hash, which float32 holds exactly (see `series_key`)."""

    kind: Literal["series"]


class Value(Strict):
    """The column's own value at the origin."""

    kind: Literal["value"]
    column: str


FeatureSpec = Annotated[Lag | Window | Quantile | Ewm | Return | Change | Calendar | GarmanKlass | SeriesKey | Value, Field(discriminator="kind")]


class FeatureParams(Strict):
    """What is computed besides `z_last` and the seasonal lags, which are always there.

    last_within_steps: how many steps before the origin the last known z may lie; without one the row cannot be forecast.
    scale: the std column that makes series of different size alike, for example `z_std_22`; None: they are alike as they come.
    """

    list: tuple[FeatureSpec, ...] = ()
    last_within_steps: Annotated[int, Field(ge=0)] = 5
    scale: str | None = None
