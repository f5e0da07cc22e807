"""What a dataset is: the `about` part of its entry.

Data, not code; every stage and the service read the same object.
"""

from math import inf
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.core.strict import Strict

NUMERIC = "numeric"  # the kind of a target that names none
ColumnType = Literal["float", "category", "text"]


class Bounds(Strict):
    """The values that the contract allows the target, in its unit."""

    min: float | None = None
    max: float | None = None
    strict_min: bool = False

    def describe(self) -> str:
        """The allowed values in short, for example `> 0 and <= 10`."""
        low = "" if self.min is None else f"{'>' if self.strict_min else '>='} {self.min:g}"
        return " and ".join(filter(None, (low, "" if self.max is None else f"<= {self.max:g}")))


class Target(Strict):
    """What is forecast.

    column: the value column, or the name the derived column gets.
    kind: one of tasks.core.kinds; it decides columns, losses, combination and calibration.
    derive: how it is computed from other columns (`bar_return`: ln(close/open); None: received).
    transform: z = transform(y), the space in which models work.
    power: of `box_cox` alone, which is between log (0) and none (1).
    floor: y below it counts as missing, in the target's unit.
    integer: values are whole numbers (counts), so quantiles are, too; the point stays a mean or a
      median.
    bounds: not declared here: the contract of the target's column (`validate.columns`), as the
      ensemble stage gives it to the release. No forecast is outside.
    """

    column: str
    unit: str
    # Not written where it is the default, so that releases of before keep their digest
    kind: Annotated[str, Field(exclude_if=lambda kind: kind == NUMERIC)] = NUMERIC
    derive: Literal["garman_klass", "bar_return"] | None = None
    transform: Literal["none", "log", "log1p", "box_cox"] = "none"
    power: Annotated[float, Field(gt=0, lt=1)] | None = None
    floor: float | None = None
    integer: Annotated[bool, Field(exclude_if=lambda integer: not integer)] = False
    bounds: Annotated[Bounds | None, Field(exclude_if=lambda bounds: bounds is None)] = None

    @model_validator(mode="after")
    def _check_power(self) -> "Target":
        if (self.power is not None) != (self.transform == "box_cox"):
            raise ValueError(
                f"`about.target` has transform {self.transform!r} and power {self.power}; `power` goes with"
                " `box_cox`, and only with it."
            )
        if self.floor is not None and self.floor <= {"log": 0.0, "log1p": -1.0, "box_cox": 0.0}.get(
            self.transform, -inf
        ):
            raise ValueError(
                f"`about.target.floor` is {self.floor:g}, where {self.transform} is not defined. Raise it, or"
                " leave it out."
            )
        return self


class Covariates(Strict):
    """Further value columns.

    past: known up to the cutoff.
    known_ahead: known over the horizon too. They come in rows of their own, without a target and
      with the `known_at` at which they were announced (see docs/how-to/add-a-feature.md).
    static: one value a series.
    """

    past: tuple[str, ...] = ()
    known_ahead: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    @property
    def all(self) -> set[str]:
        """Every one of them."""
        return {*self.past, *self.known_ahead, *self.static}


class About(Strict):
    """One dataset: its grid, its target, its horizon and how forecasts are judged.

    every: length of a step as a polars duration (`1d`, `1h`, `5m`, `1mo`).
    integer_time: the source has no time, rows are steps and series are aligned at their last value.
    season_steps: 1 means no season.
    primary_score: decides weights, the gate and the point forecast; the target's kind checks it. Of
      a numeric target, `qlike` asks for the root of the mean square, `rmse` for the mean, `mae` for
      the median; `smape` for the median too, each step counted in percent, so that small series
      count like large ones; `mase` and `owa` for the median, in units of the seasonal naive's error
      up to the cutoff, owa half in percent.
    quantiles: of the interval of a numeric target.
    columns: types of the value columns that are no numbers, by name. A category has few values;
      both are kept from ingest to the quarantine, and no model reads them yet.
    publish_delay_s: after the end of a step, until its value can be known.
    """

    description: str
    every: str
    calendar: str = "continuous"
    integer_time: bool = False
    target: Target
    horizon_steps: Annotated[int, Field(ge=1)]
    season_steps: Annotated[int, Field(ge=1)] = 1
    covariates: Covariates = Covariates()
    primary_score: str = "mae"
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    # Not written where it is empty, so that releases of before keep their digest
    columns: dict[str, ColumnType] = Field(default_factory=dict, exclude_if=lambda columns: not columns)
    publish_delay_s: Annotated[float, Field(ge=0)] = 0.0

    def get_column_type(self, column: str) -> ColumnType:
        """The type of a value column; one that is not declared holds numbers."""
        return self.columns.get(column, "float")

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Value columns that hold no numbers."""
        return tuple(column for column, kind in self.columns.items() if kind != "float")

    @model_validator(mode="after")
    def _check_quantiles(self) -> "About":
        if list(self.quantiles) != sorted(set(self.quantiles)) or not all(0 < q < 1 for q in self.quantiles):
            raise ValueError(
                f"`about.quantiles` is {list(self.quantiles)}; they must rise strictly, between 0 and 1."
            )
        return self
