"""Parameters of the stage `ensemble`."""

from typing import Annotated

from pydantic import Field

from tasks.core.about import Strict

Frac = Annotated[float, Field(ge=0, le=1)]


class EnsembleParams(Strict):
    """How members are pruned and weighted, and how intervals follow.

    prune_above_frac: a member whose loss is more than this above the best's gets no weight. shrink_frac: how far weights go from the
    fitted to equal ones. reweight_every_cutoffs: distance of new weights. burn_in_cutoffs: not scored, at most a quarter of all.
    residuals: size of each conformal pool. adapt_rate: step of the adaptive levels.
    """

    prune_above_frac: Annotated[float, Field(ge=0)]
    shrink_frac: Frac
    residuals: Annotated[int, Field(ge=20)]
    adapt_rate: Frac
    reweight_every_cutoffs: Annotated[int, Field(ge=1)] = 63
    burn_in_cutoffs: Annotated[int, Field(ge=0)] = 250
