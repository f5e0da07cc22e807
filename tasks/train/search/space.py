"""The values of one parameter that a search may try."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from tasks.core.strict import Strict


class SearchAxis(Strict):
    """The values of one parameter: exactly one of `int`, `float` and `choice`.

    int, float: [low, high], both included.
    choice: a list of values.
    log: draw evenly over the orders of magnitude.
    when: draw only if other parameters have this value, or one of these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, populate_by_name=False)

    whole: tuple[int, int] | None = Field(default=None, alias="int")
    real: tuple[float, float] | None = Field(default=None, alias="float")
    choice: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    log: bool = False
    when: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_one_kind(self) -> "SearchAxis":
        given = [
            name
            for name, value in (("int", self.whole), ("float", self.real), ("choice", self.choice))
            if value is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"it has {given or 'no range'}; give one of `int: [low, high]`, `float: [low, high]`,"
                " `choice: [...]`"
            )
        if (bounds := self.whole or self.real) is None:
            if self.log:
                raise ValueError("`log` goes with `int` or `float`; a `choice` has no order")
        elif bounds[0] > bounds[1] or (self.log and bounds[0] <= 0):
            raise ValueError(
                f"[{bounds[0]:g}, {bounds[1]:g}] must rise"
                + (", from above 0 with `log`" if self.log else "")
            )
        return self

    def draw(self, trial: Any, name: str) -> Any:
        """The value that Optuna's *trial* tries; a choice is stored as JSON: it may be a list."""
        if self.whole is not None:
            return trial.suggest_int(name, *self.whole, log=self.log)
        if self.real is not None:
            return trial.suggest_float(name, *self.real, log=self.log)
        return json.loads(trial.suggest_categorical(name, [json.dumps(value) for value in self.choice or ()]))

    def parse(self, stored: Any) -> Any:
        """The value of what the study has stored."""
        return json.loads(stored) if self.choice is not None else stored

    def is_applicable(self, model_params: Mapping[str, Any]) -> bool:
        """Whether `when` holds for *model_params*."""
        return all(
            model_params.get(name) in (wanted if isinstance(wanted, list) else [wanted])
            for name, wanted in self.when.items()
        )
