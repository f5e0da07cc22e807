"""Parameters of the stage `train`, and those of a model that say how it is trained."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from tasks.core.errors import ParamsError
from tasks.core.folds import WalkForward
from tasks.core.strict import Strict
from tasks.train.search.params import SearchParams
from tasks.train.select import SelectParams


class TrainParams(WalkForward):
    """How to walk, the seed of everything random, and for how long.

    budget_s: seconds after which no further fit begins; None: until all are made.
    """

    seed: int = 1
    budget_s: Annotated[float, Field(gt=0)] | None = None


class ModelTraining(Strict):
    """Those of a model's own parameters that `train` reads.

    forecaster: its kind, when its name is not that of one.
    refit_every_cutoffs: when it refits more rarely than the others.
    refit: `full` from nothing, `warm` from the fit before, `frozen` never again: the first fit
      serves all cutoffs.
    start_from: folder with a fit of the same kind and columns that the first fit continues from
      (all of them with `full`).
    search: parameters that are chosen inside the window.
    select: columns that are chosen in each window.
    """

    forecaster: str | None = None
    refit_every_cutoffs: Annotated[int, Field(ge=1)] | None = None
    refit: Literal["full", "warm", "frozen"] = "full"
    start_from: str | None = None
    search: SearchParams | None = None
    select: SelectParams | None = None

    @model_validator(mode="after")
    def _check_warm_start(self) -> "ModelTraining":
        goes_on = "refit: warm" if self.refit == "warm" else "start_from" if self.start_from else None
        changes = (
            "select"
            if self.select
            else "search.every_folds"
            if self.search and self.search.every_folds
            else None
        )
        if goes_on and changes:
            raise ValueError(
                f"`{goes_on}` goes on from an earlier fit, which `{changes}` makes another model; take one of"
                " them away"
            )
        return self


def split_model_params(model: str, given: dict[str, Any]) -> tuple[ModelTraining, dict[str, Any]]:
    """Those of *given* that `train` reads, and those that the forecaster does.

    Raises ParamsError that names model, key and value.
    """
    ours = {k: v for k, v in given.items() if k in ModelTraining.model_fields}
    try:
        return ModelTraining.model_validate(ours), {k: v for k, v in given.items() if k not in ours}
    except ValidationError as error:
        faults = "; ".join(
            f"`{'.'.join(map(str, e['loc']))}`: {e['msg']} (found {str(e['input'])[:60]!r})"
            for e in error.errors()
        )
        raise ParamsError(
            f"params.yaml, models.{model}: {faults}. Correct it in the dataset's entry."
        ) from error
