"""The kinds of target: what a stage asks instead of naming columns and losses itself."""

import difflib
from dataclasses import replace

import polars as pl

from tasks.core.about import About, Target
from tasks.core.errors import ParamsError
from tasks.core.frames import FORECAST, FrameSchema
from tasks.core.kinds.base import Kind
from tasks.core.kinds.numeric import NumericKind

KINDS: dict[str, Kind] = {"numeric": NumericKind()}


def get_kind(target: Target) -> Kind:
    """The kind of *target*. Raises ParamsError with the known ones."""
    name = target.kind
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ParamsError(f"`about.target.kind` is {name!r}; there are {', '.join(KINDS)}.{hint}")
    return KINDS[name]


def get_forecast_schema(about: About) -> FrameSchema:
    """FORECAST with the point of the target's kind as a column that must be there."""
    point = get_kind(about.target).list_columns(about)[0]
    return replace(FORECAST, columns={**FORECAST.columns, point: pl.Float64})
