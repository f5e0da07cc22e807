"""Parameters of the stage `ensemble`."""

from typing import Annotated, Literal

from pydantic import Field

from tasks.core.strict import Strict

Frac = Annotated[float, Field(ge=0, le=1)]


class EnsembleParams(Strict):
    """How members are pruned and combined, which combiner is chosen, and how intervals follow.

    prune_above_frac: a member whose loss is more than this above the best's is not combined.
    shrink_frac: how far weights are moved from the fitted to equal ones.
    reweight_every_cutoffs: distance between refits, at most an eighth of the walk.
    burn_in_cutoffs: not scored, at most a quarter of all.
    select_frac: newest share of the scored cutoffs, on which combiners fitted before it are
      compared.
    select_alpha: a less simple combiner is taken only where the chance that its lead is luck is at
      most this, shared among those compared.
    newest_frac: last slice of the known past, for `blending` and for stacking's penalty.
    recent_cutoffs: half-life of the losses that `recent` follows.
    intervals: where quantiles come from. `adaptive`: residuals of the forecast, at levels that
      follow the misses; `split`: the same at constant levels; `block`: as split, for residuals that
      resemble their neighbours up to block_cutoffs away; `cqr`: the members' own quantiles,
      corrected by their residuals, adaptive too.
    interval_groups: whose residuals; `auto` takes those of each series when there are enough.
    regime_column: the feature whose terciles at the origin are the regimes of groups and report;
      None: the scale, or the first standard deviation.
    residuals: size of each conformal pool.
    adapt_rate: step of the adaptive levels; 0 is plain CQR.
    """

    prune_above_frac: Annotated[float, Field(ge=0)]
    shrink_frac: Frac
    intervals: Literal["adaptive", "split", "block", "cqr"] = "adaptive"
    interval_groups: Literal["auto", "all", "series", "regime"] = "auto"
    block_cutoffs: Annotated[int, Field(ge=2)] = 10
    regime_column: str | None = None
    residuals: Annotated[int, Field(ge=20)]
    adapt_rate: Frac
    reweight_every_cutoffs: Annotated[int, Field(ge=1)] = 63
    burn_in_cutoffs: Annotated[int, Field(ge=0)] = 250
    select_frac: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    select_alpha: Annotated[float, Field(gt=0, le=1)] = 0.05
    newest_frac: Annotated[float, Field(gt=0, lt=1)] = 0.2
    recent_cutoffs: Annotated[int, Field(ge=1)] = 63
