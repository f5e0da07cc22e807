"""What a search may try, how it judges, and when it ends: `search` among a model's own
parameters.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.core.strict import Strict
from tasks.train.search.space import SearchAxis

Objective = Literal["error", "latency", "size"]


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
