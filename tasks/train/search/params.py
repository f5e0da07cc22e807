"""What a search tries, how it judges and when it ends: `search` among a model's own parameters."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.core.strict import Strict
from tasks.train.search.space import SearchAxis

Objective = Literal["error", "latency", "size"]


class SearchParams(Strict):
    """The section `search` of a model.

    space: parameter -> what is tried; `when` refers to parameters above it, or not searched.
    n_trials, budget_s: when the search ends.
    workers: trials at the same time; with more than one the result depends on their speed.
    inner_cutoffs, inner_refits: size of the walk inside the window that judges a trial.
    inner_stride_steps: between its cutoffs; None: the horizon.
    inner_window_steps: newest steps that its fits learn from; None: as in the walk.
    prune: end a trial that is worse than the median after an inner fold; only if error is the one
    objective.
    objectives: what is minimized, the error first.
    prefer: the objective that is least in the chosen trial, of those within `within_frac`.
    within_frac: how far above the least error a trial may be to be chosen.
    every_folds: search again as of every k-th fold; None: once, as of the first.
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
                f"`objectives` is {list(self.objectives)}; `error` comes first, and none is repeated"
            )
        if self.prefer not in self.objectives:
            raise ValueError(
                f"`prefer: {self.prefer}` is not among `objectives` {list(self.objectives)}; add it there"
            )
        names = list(self.space)
        for index, (name, axis) in enumerate(self.space.items()):
            if later := sorted(set(axis.when) & set(names[index:])):
                raise ValueError(
                    f"`space.{name}.when` refers to {later}, which is drawn after it; put it above {name}"
                )
        return self

    @property
    def trial_inputs(self) -> dict[str, Any]:
        """Everything that a trial's outcome depends on.

        With another number of trials, budget or preference the same study goes on.
        """
        return self.model_dump(
            by_alias=True, exclude={"n_trials", "budget_s", "workers", "prefer", "within_frac", "every_folds"}
        )

    @property
    def reproducible_objectives(self) -> tuple[str, ...]:
        """Those that are the same in every run, the error first: a latency is not.

        Only these may enter an output of the stage.
        """
        return tuple(o for o in self.objectives if o != "latency")


def merge_params(model_params: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """*model_params* with the *chosen* ones; the name `params.alpha` is `alpha` in `params`."""
    merged = dict(model_params)
    for name, value in chosen.items():
        outer, _, inner = name.partition(".")
        merged[outer] = merge_params(merged.get(outer) or {}, {inner: value}) if inner else value
    return merged
