"""The section `features`: the declared features, and the bounds of the leak gate."""

from typing import Annotated

from pydantic import Field

from tasks.core.schema import Centres
from tasks.core.strict import Strict
from tasks.features.specs import FeatureSpec


class LeakParams(Strict):
    """The section `features.leaks` (see `tasks.features.leaks`).

    n_cutoffs: computed again from truncated history, in addition to the newest cutoff and those
    before late rows.
    max_determined_frac: share of the future target's variance, beyond what its own past explains,
    that a column from outside may explain.
    max_r2: of a ridge over all features, one step ahead, out of sample, against the best naive
    forecast. None: 0.01 for a target that behaves like a return, else no bound.
    max_hit_frac: of signs that this ridge may find. None: 0.53 for such a target, else no bound.
    leading: features that honestly know the target ahead (an upstream gauge, orders before
    deliveries); they are not tested for it.
    """

    n_cutoffs: Annotated[int, Field(ge=1)] = 64
    max_determined_frac: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_r2: Annotated[float, Field(gt=0, le=1)] | None = None
    max_hit_frac: Annotated[float, Field(gt=0.5, le=1)] | None = None
    leading: Annotated[tuple[str, ...], Field(exclude_if=lambda names: not names)] = ()


class FeatureParams(Strict):
    """The section `features`.

    list: features in addition to `z_last` and the seasonal lags, which are always computed.
    last_within_steps: maximum age of the last known z; a row without one cannot be forecast.
    scale: the std column by which series of different size are divided, for example `z_std_22`;
    None: they have similar sizes already.
    leaks: bounds of the leak gate.
    centres: computed by the stage, not declared: see tasks.features.centres.
    """

    list: tuple[FeatureSpec, ...] = ()
    last_within_steps: Annotated[int, Field(ge=0)] = 5
    scale: str | None = None
    leaks: LeakParams = LeakParams()
    centres: Annotated[Centres, Field(exclude_if=lambda centres: not centres)] = ()
