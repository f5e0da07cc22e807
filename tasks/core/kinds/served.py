"""Forecasts as they are served and scored: the last step from the space of the members."""

import numpy as np

from tasks.core.about import NUMERIC, About
from tasks.core.kinds import get_kind
from tasks.core.kinds.base import Array

_WHOLE_DECIMALS = 6  # 4.9999999 is 5


def decode_columns(about: About, columns: Array) -> Array:
    """The columns (..., C) of forecasts in the target's unit, within its contract.

    Where a numeric target is whole numbers, quantiles below .5 are rounded down, those above it up,
    and the median to the nearest, so that no interval covers less; the point is not rounded.
    columns: in the space in which members are combined.
    """
    target = about.target
    values = get_kind(target).decode(target, columns)
    if target.kind != NUMERIC or not target.integer:
        return values
    values = np.array(values)
    point, quantiles = values[..., 0], values[..., 1:]
    for i, q in enumerate(about.quantiles):
        to_whole = np.floor if q < 0.5 else np.ceil if q > 0.5 else np.rint
        quantiles[..., i] = to_whole(quantiles[..., i].round(_WHOLE_DECIMALS))
    if len(about.quantiles) > 1:
        quantiles[..., 0] = np.minimum(quantiles[..., 0], np.floor(point))
        quantiles[..., -1] = np.maximum(quantiles[..., -1], np.ceil(point))
    return values
