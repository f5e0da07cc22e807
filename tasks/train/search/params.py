"""What a search may try, how it judges, and when it ends: `search` among a model's own
parameters.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from tasks.core.strict import Strict

Objective = Literal["error", "latency", "size"]


class SearchAxis(Strict):
    """What one parameter may be: whole numbers (`int: [low, high]`), numbers (`float: [low, high]`)
    or one of a list (`choice`).

    log: drawn evenly over the orders of magnitude. when: only where other parameters have this
    value, or one of these.
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
        """The value that Optuna's *trial* tries.

        A choice is kept as JSON, so that it may be a list.
        """
        if self.whole is not None:
            return trial.suggest_int(name, *self.whole, log=self.log)
        if self.real is not None:
            return trial.suggest_float(name, *self.real, log=self.log)
        return json.loads(trial.suggest_categorical(name, [json.dumps(value) for value in self.choice or ()]))

    def read(self, drawn: Any) -> Any:
        """The value of what the study kept."""
        return json.loads(drawn) if self.choice is not None else drawn

    def is_applicable(self, given: Mapping[str, Any]) -> bool:
        """Whether `when` holds for the parameters *given*."""
        return all(
            given.get(name) in (wanted if isinstance(wanted, list) else [wanted])
            for name, wanted in self.when.items()
        )


class SearchParams(Strict):
    """space: what is tried; of `when` the parameters above count, and those that are not searched.
    n_trials, budget_s: when it ends.

    workers: trials at the same time; with more than one the answer depends on who is faster.
    inner_cutoffs, inner_stride_steps (None: the horizon), inner_refits: the walk inside the window
    that judges a trial; inner_window_steps: newest steps that its fits learn from (None: as in the
    walk), so that a trial is cheap. prune: end a trial that is worse than the median after an inner
    fold; only where error is the one objective. objectives: what is kept small. prefer: of trials
    whose error is at most within_frac above the least, the one that has least of it. every_folds:
    search anew as of every k-th fold (None: once, as of the first).
    """

    space: Annotated[dict[str, SearchAxis], Field(min_length=1)]
    n_trials: Annotated[int, Field(ge=1)] = 50
    budget_s: Annotated[float, Field(gt=0)] | None = None
    workers: Annotated[int, Field(ge=1)] = 1
    inner_cutoffs: Annotated[int, Field(ge=1)] = 12
    inner_stride_steps: Annotated[int, Field(ge=1)] | None = None
    inner_refits: Annotated[int, Field(ge=1)] = 3
    inner_window_steps: Annotated[int, Field(ge=1)] | None = None
    prune: bool = True
    objectives: tuple[Objective, ...] = ("error",)
    prefer: Objective = "error"
    within_frac: Annotated[float, Field(ge=0)] = 0.01
    every_folds: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_search(self) -> "SearchParams":
        if self.objectives[:1] != ("error",) or len(set(self.objectives)) != len(self.objectives):
            raise ValueError(
                f"`objectives` is {list(self.objectives)}; `error` comes first, and none comes twice"
            )
        if self.prefer not in self.objectives:
            raise ValueError(
                f"`prefer: {self.prefer}` is not among `objectives` {list(self.objectives)}; add it there"
            )
        names = list(self.space)
        for place, (name, axis) in enumerate(self.space.items()):
            if later := sorted(set(axis.when) & set(names[place:])):
                raise ValueError(
                    f"`space.{name}.when` asks for {later}, which is drawn after it; put it above {name}"
                )
        return self

    @property
    def trial_inputs(self) -> dict[str, Any]:
        """Everything that a trial's outcome depends on: with another number of trials, budget or
        preference the same study goes on.
        """
        return self.model_dump(
            by_alias=True, exclude={"n_trials", "budget_s", "workers", "prefer", "within_frac", "every_folds"}
        )


def merge_params(own: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A model's *own* parameters with the *chosen* ones in their place; `params.alpha` is
    `alpha` among `params`.
    """
    merged = dict(own)
    for name, value in chosen.items():
        outer, _, inner = name.partition(".")
        merged[outer] = merge_params(merged.get(outer) or {}, {inner: value}) if inner else value
    return merged
