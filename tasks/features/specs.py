"""The declared features.

Each entry of `features.list` has a `kind`; a feature's name, `<column>_<kind>_<argument>`, fixes
its computation for good. `column` is a received value column, `z` (the target after its transform)
or `y` (the target in its unit). A window of w steps is the row itself and the w - 1 steps before
it; a lag of k is k steps before the row.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.core.errors import FeatureInputError
from tasks.core.strict import Strict

EWM_CUT_SPANS = (
    # An ewm reads this many spans; older steps have exp(-8) = 0.03 % of the weight. A constant,
    # since the name must fix the computation
    4
)

CalendarPart = Literal["minute", "hour", "weekday", "day", "day_of_year", "week", "month", "quarter"]
Period = Literal["day", "week", "month", "year"]
HolidayPart = Literal["is", "until", "since", "ahead"]
CrossOf = Literal["mean", "median", "std", "others_mean", "rank", "share", "series"]


def _check_at_least(where: str, numbers: tuple[float, ...], minimum: int, reason: str) -> None:
    if not numbers:
        raise FeatureInputError(
            f"`features.list`: {where} is empty; give at least one number, or drop the entry from"
            " params.yaml."
        )
    if bad := [n for n in numbers if n < minimum]:
        raise FeatureInputError(f"`features.list`: {where} has {bad}; {reason}. Correct it in params.yaml.")


class Lag(Strict):
    """The value `steps` steps back of the same series; null where there is none, never filled."""

    kind: Literal["lag"]
    column: str
    steps: tuple[int, ...]

    @model_validator(mode="after")
    def _check_lookback(self) -> "Lag":
        _check_at_least(f"lag of {self.column!r}", self.steps, 1, "a lag looks back at least 1 step")
        return self


class Window(Strict):
    """A statistic of the last `window_steps` steps; `std` has the denominator n - 1.

    Of the values that are there; null when less than half of them are.
    """

    kind: Literal["mean", "std", "min", "max", "zscore", "drawdown"]
    column: str
    window_steps: tuple[int, ...]

    @model_validator(mode="after")
    def _check_width(self) -> "Window":
        minimum = 2 if self.kind in {"std", "zscore"} else 1
        _check_at_least(
            f"{self.kind} of {self.column!r}",
            self.window_steps,
            minimum,
            f"its window needs at least {minimum} step(s)",
        )
        return self


class Quantile(Strict):
    """The quantile `q` of the last `window_steps` steps; missing values as for a mean.

    Linear between order statistics.
    """

    kind: Literal["quantile"]
    column: str
    window_steps: tuple[int, ...]
    q: float

    @model_validator(mode="after")
    def _check_q(self) -> "Quantile":
        _check_at_least(
            f"quantile of {self.column!r}", self.window_steps, 1, "its window needs at least 1 step"
        )
        if not 0 < self.q < 1:
            raise FeatureInputError(
                f"`features.list`: quantile of {self.column!r} has q {self.q}; q is between 0 and 1, and"
                " `min` and `max` are kinds of their own."
            )
        return self


class Ewm(Strict):
    """Mean with weights (1 - 2 / (span + 1)) ** age, cut at 4 spans.

    Missing values have no weight, and half of the steps must be there.
    """

    kind: Literal["ewm"]
    column: str
    span_steps: tuple[int, ...]

    @model_validator(mode="after")
    def _check_span(self) -> "Ewm":
        _check_at_least(f"ewm of {self.column!r}", self.span_steps, 1, "a span has at least 1 step")
        return self


class Return(Strict):
    """A return over `steps` steps: ln(value / former value), or of `roc` value / former value - 1.

    `abs_return` is its absolute value, `negative_return` is min(return, 0). Null unless the former
    value is positive, and for logarithms both.
    """

    kind: Literal["return", "abs_return", "negative_return", "roc"]
    column: str
    steps: tuple[int, ...]

    @model_validator(mode="after")
    def _check_lookback(self) -> "Return":
        _check_at_least(
            f"{self.kind} of {self.column!r}", self.steps, 1, "a return looks back at least 1 step"
        )
        return self


class Change(Strict):
    """The mean |value - value `steps` back| of the last `window_steps` steps.

    Null when less than half is there. `level_to_change_ratio` (`steadiness` is its former name) is
    the column's absolute mean over the same window divided by that: of a target, the level in
    seasonal naive errors, which converts an error in percent into one in MASE's units.
    """

    kind: Literal["change", "level_to_change_ratio", "steadiness"]
    column: str
    steps: tuple[int, ...]
    window_steps: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _check_lookback(self) -> "Change":
        _check_at_least(
            f"{self.kind} of {self.column!r}", self.steps, 1, "a change looks back at least 1 step"
        )
        return self


class CalendarFeature(Strict):
    """Parts of the step's start in UTC as numbers, for example weekday 0 (Monday) to 6."""

    kind: Literal["calendar"]
    parts: tuple[CalendarPart, ...]


class GarmanKlass(Strict):
    """The step's Garman-Klass volatility from open, high, low, close (see `garman_klass`)."""

    kind: Literal["garman_klass"]


class SeriesKey(Strict):
    """The row's series, for models that distinguish series; see `encode_series_id`.

    Two columns of 24 bits each of the id's hash, which float32 holds exactly.
    """

    kind: Literal["series"]


class Value(Strict):
    """The column's own value at the origin."""

    kind: Literal["value"]
    column: str


class Rsi(Strict):
    """Relative strength index of the column, Wilder-averaged over `window_steps`."""

    kind: Literal["rsi"]
    column: str
    window_steps: tuple[int, ...]

    @model_validator(mode="after")
    def _check_width(self) -> "Rsi":
        _check_at_least(f"rsi of {self.column!r}", self.window_steps, 2, "its window needs at least 2 steps")
        return self


class Macd(Strict):
    """Fast minus slow ewm (`line`), its ewm (`signal`), their difference (`histogram`).

    Null as an ewm is.
    """

    kind: Literal["macd"]
    column: str
    fast_steps: Annotated[int, Field(ge=1)] = 12
    slow_steps: Annotated[int, Field(ge=2)] = 26
    signal_steps: Annotated[int, Field(ge=1)] = 9

    @model_validator(mode="after")
    def _check_fast_slow(self) -> "Macd":
        if self.fast_steps >= self.slow_steps:
            raise FeatureInputError(
                f"`features.list`: macd of {self.column!r} has fast_steps {self.fast_steps} and slow_steps"
                f" {self.slow_steps}; fast is the smaller one."
            )
        return self


class Bollinger(Strict):
    """The value's position between the bands mean +- `width` standard deviations, and their width.

    Over `window_steps`; the standard deviation has the denominator n.
    """

    kind: Literal["bollinger"]
    column: str
    window_steps: tuple[int, ...]
    width: Annotated[float, Field(gt=0)] = 2.0

    @model_validator(mode="after")
    def _check_width(self) -> "Bollinger":
        _check_at_least(
            f"bollinger of {self.column!r}", self.window_steps, 2, "its window needs at least 2 steps"
        )
        return self


class BarFeature(Strict):
    """Indicators that read a bar: open, high, low, close; `obv_change` reads close and volume.

    See `tasks/features/indicators.py`.
    """

    kind: Literal["atr", "atr_frac", "stochastic", "obv_change", "parkinson", "rogers_satchell"]
    window_steps: tuple[int, ...]

    @model_validator(mode="after")
    def _check_width(self) -> "BarFeature":
        _check_at_least(self.kind, self.window_steps, 1, "its window needs at least 1 step")
        return self


class Fourier(Strict):
    """sin and cos of 1 to `order` cycles per period, at the origin.

    The period is one of the calendar, or so many days or steps, counted from 1970.
    """

    kind: Literal["fourier"]
    period: Period | None = None
    period_days: Annotated[float, Field(gt=0)] | None = None
    period_steps: Annotated[float, Field(gt=1)] | None = None
    order: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _check_period(self) -> "Fourier":
        # Two of three are not given
        if [self.period, self.period_days, self.period_steps].count(None) != 2:
            raise FeatureInputError(
                "`features.list`: fourier needs exactly one of `period` (day, week, month, year),"
                " `period_days` and `period_steps`."
            )
        return self


class Time(Strict):
    """Time as two numbers that float32 holds, whose sum is the trend.

    Whole days since 1970 (exact) and the elapsed part of the day (to 5 ms).
    """

    kind: Literal["time"]


class Holiday(Strict):
    """Holidays of a country.

    country, subdivision: codes of the library `holidays`, for example DE and BY.
    time_zone: whose dates count; UTC without one.
    within_days: no more days are counted.
    parts: whether the row's date is one, days `until` the next, days `since` the last, and `ahead`,
        a column for each step of the horizon.
    """

    kind: Literal["holiday"]
    country: str
    subdivision: str | None = None
    time_zone: str = "UTC"
    within_days: Annotated[int, Field(ge=1, le=366)] = 14
    parts: tuple[HolidayPart, ...] = ("is", "until", "since", "ahead")


class Cross(Strict):
    """A statistic over all series that have a value at the origin's step, as known at its cutoff.

    of: mean, median, std (n - 1) of all values; others_mean: of all except the row's; rank of the
        row's value, from 0, the lowest, to 1; share: of the row's value in the sum; series: the
        value of the series `series_id`, for example an index.
    """

    kind: Literal["cross"]
    column: str
    of: tuple[CrossOf, ...]
    series_id: str | None = None

    @model_validator(mode="after")
    def _check_series(self) -> "Cross":
        if not self.of or ("series" in self.of) != (self.series_id is not None):
            raise FeatureInputError(
                f"`features.list`: cross of {self.column!r} needs `of`, and `series_id` with `of: [series]`"
                " and only then."
            )
        return self


class Static(Strict):
    """The one value that a series has in a column of `about.covariates.static`.

    Of its newest row within `last_within_steps` steps.
    """

    kind: Literal["static"]
    column: str


class Ahead(Strict):
    """The value of a column of `about.covariates.known_ahead` at each step of the horizon.

    By the newest row that is known at the origin's cutoff.
    """

    kind: Literal["ahead"]
    column: str


class Function(Strict):
    """A function of a module in `tasks/extensions`; its contract is in `tasks.features.functions`.

    of: `module:function`.
    column: it receives this column's values. columns: it receives a frame of event_time and these.
    lookback_steps: how many steps before the row it reads.
    source: the module's text, set by `resolve_functions`, so that a release's features.json has it.
    """

    kind: Literal["function"]
    of: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$")]
    column: str | None = None
    columns: tuple[str, ...] = ()
    lookback_steps: Annotated[int, Field(ge=0)]
    role: Literal["level", "spread", "free"] = "free"
    source: str = ""

    @property
    def columns_read(self) -> tuple[str, ...]:
        """The columns that it receives."""
        return self.columns if self.column is None else (self.column,)

    @model_validator(mode="after")
    def _check_reads(self) -> "Function":
        if (self.column is None) == (not self.columns):
            raise FeatureInputError(
                f"`features.list`: function {self.of!r} has column {self.column!r} and columns"
                f" {list(self.columns)}; give `column` for an array of its values, or `columns` for a frame."
            )
        return self


FeatureSpec = Annotated[
    Lag
    | Window
    | Quantile
    | Ewm
    | Return
    | Change
    | Rsi
    | Macd
    | Bollinger
    | BarFeature
    | CalendarFeature
    | Fourier
    | Time
    | Holiday
    | GarmanKlass
    | SeriesKey
    | Value
    | Static
    | Ahead
    | Cross
    | Function,
    Field(discriminator="kind"),
]
