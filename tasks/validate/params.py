"""The contract, as params.yaml states it. The wizard writes the same structure."""

from typing import Annotated

from pydantic import Field, model_validator

from tasks.core.strict import Strict


class ColumnRule(Strict):
    """What a value of one column may be, in the column's unit.

    A null is allowed only where `nullable`, an infinite value never.
    """

    min: float | None = None
    max: float | None = None
    strict_min: bool = False
    nullable: bool = False
    values: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _check_bounds(self) -> "ColumnRule":
        if self.strict_min and self.min is None:
            raise ValueError("`strict_min` needs a `min` to be above of.")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` {self.min} lies above `max` {self.max}; no value can keep that.")
        return self


class RowRule(Strict):
    """What holds between two columns of a row where both are known."""

    greater_or_equal: tuple[str, str]


class ValidateParams(Strict):
    """max_quarantine_frac: of the received rows, above which the stage stops. min_rows: received
    rows, all series together.
    """

    max_quarantine_frac: Annotated[float, Field(ge=0, le=1)]
    min_rows: Annotated[int, Field(ge=1)] = 1
    columns: dict[str, ColumnRule]
    rows: tuple[RowRule, ...] = ()

    @property
    def names(self) -> list[str]:
        """Every column that the contract speaks of, sorted."""
        return sorted({*self.columns, *(c for rule in self.rows for c in rule.greater_or_equal)})
