"""The section `features`: the declared features, and how closely the leak gate looks."""

from typing import Annotated

from pydantic import Field

from tasks.core.strict import Strict
from tasks.features.specs import FeatureSpec


class LeakParams(Strict):
    """How closely the leak gate looks, and what is too good to be true (`tasks.features.leaks`).

    n_cutoffs: how many cutoffs are computed again from truncated history, besides the newest and
    those before late rows.
    max_determined_frac: share of a future target's variance, beyond what its own past explains,
    that a column which is not made of the target may explain. max_r2: of a ridge over all features,
    one step ahead, out of sample, against the best naive forecast. max_hit_frac: how often it may
    find the sign. None: .01 and .53 for a target that behaves like a return, no bound for others.
    leading: features that honestly know the target ahead (an upstream gauge, orders before
    deliveries), which are not tested for it.
    """

    n_cutoffs: Annotated[int, Field(ge=1)] = 64
    max_determined_frac: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_r2: Annotated[float, Field(gt=0, le=1)] | None = None
    max_hit_frac: Annotated[float, Field(gt=0.5, le=1)] | None = None
    leading: Annotated[tuple[str, ...], Field(exclude_if=lambda names: not names)] = ()


class FeatureParams(Strict):
    """What is computed besides `z_last` and the seasonal lags, which are always there.

    last_within_steps: how many steps before the origin the last known z may lie; without one the
    row cannot be forecast.
    scale: the std column that makes series of different size alike, for example `z_std_22`; None:
    they are alike as they come.
    leaks: how closely the leak gate looks at all of it.
    """

    list: tuple[FeatureSpec, ...] = ()
    last_within_steps: Annotated[int, Field(ge=0)] = 5
    scale: str | None = None
    leaks: LeakParams = LeakParams()
