"""What a dataset is: the `about` part of its entry. Data, not code; every stage and the service read the same object."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Frozen; an unknown key is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Target(Strict):
    """What is forecast.

    column: the value column, or the name the derived column gets. derive: how it comes from other columns (`bar_return`: ln(close/open);
    None: it is received).
    transform: z = transform(y), the space in which models work. floor: y below it counts as missing for log, in the target's unit.
    """

    column: str
    unit: str
    derive: Literal["garman_klass", "bar_return"] | None = None
    transform: Literal["none", "log", "log1p"] = "none"
    floor: float | None = None


class Covariates(Strict):
    """Further value columns: `past` are known up to the cutoff, `known_ahead` over the horizon too, `static` has one value a series.

    What is known ahead comes in rows of its own, without a target and with the `known_at` at which it was said (see docs/how-to/add-a-feature.md).
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

    every: length of a step as a polars duration (`1d`, `1h`, `5m`, `1mo`). integer_time: the source has no time, rows are steps and
    series are aligned at their last value. season_steps: 1 means no season. primary_score decides weights, the gate and the point
    forecast: `qlike` the root of the mean square, `rmse` the mean, `mae` the median.
    """

    description: str
    every: str
    calendar: str = "continuous"
    integer_time: bool = False
    target: Target
    horizon_steps: Annotated[int, Field(ge=1)]
    season_steps: Annotated[int, Field(ge=1)] = 1
    covariates: Covariates = Covariates()
    primary_score: Literal["qlike", "rmse", "mae"] = "mae"
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    publish_delay_s: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _quantiles_are_ordered(self) -> "About":
        if list(self.quantiles) != sorted(set(self.quantiles)) or not all(0 < q < 1 for q in self.quantiles):
            raise ValueError(f"`about.quantiles` is {list(self.quantiles)}; they must rise strictly and lie between 0 and 1.")
        return self
