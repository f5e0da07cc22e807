"""The section `validate`: the contract. The wizard writes the same structure."""

from typing import Annotated

from pydantic import Field, model_validator

from tasks.core.strict import Strict


class ColumnRule(Strict):
    """The values that a column may have, in its unit.

    A null is allowed only if `nullable`, an infinite value never.
    integer: whole numbers alone.
    values: those that are allowed, texts of a column that holds texts.
    """

    min: float | None = None
    max: float | None = None
    strict_min: bool = False
    nullable: bool = False
    integer: bool = False
    values: tuple[float | str, ...] | None = None

    @model_validator(mode="after")
    def _check_bounds(self) -> "ColumnRule":
        if self.strict_min and self.min is None:
            raise ValueError("`strict_min` needs a `min`.")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` {self.min} is above `max` {self.max}; no value satisfies both.")
        return self


class RowRule(Strict):
    """What must hold between two columns of a row if both are known."""

    greater_or_equal: tuple[str, str]


class ValidateParams(Strict):
    """The section `validate`.

    max_quarantine_frac: of the received rows; above it the stage stops.
    min_rows: received rows of all series together.
    """

    max_quarantine_frac: Annotated[float, Field(ge=0, le=1)]
    min_rows: Annotated[int, Field(ge=1)] = 1
    columns: dict[str, ColumnRule]
    rows: tuple[RowRule, ...] = ()

    @property
    def names(self) -> list[str]:
        """All columns that the contract names, sorted."""
        return sorted({*self.columns, *(c for rule in self.rows for c in rule.greater_or_equal)})
