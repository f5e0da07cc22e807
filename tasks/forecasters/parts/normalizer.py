"""Feature rows as inputs that are comparable over series, and a model's output back as z.

Levels become distances from the last known value, in units of the scale column where there is one;
unknown values become the last value (levels) or the training median (others); all inputs are
standardised by the training rows and clipped. The target is the distance of z from a base (the last
value, or the value a season before) in the same units. Source of the idea: reversible instance
normalisation, Kim et al. 2022, https://openreview.net/forum?id=cGDAkQo1C0p, with the last value as
centre.
"""

from typing import Literal, NamedTuple

import numpy as np

from tasks.core.blocks import split_blocks
from tasks.core.errors import ForecasterError
from tasks.core.schema import SERIES_KEY, FeatureSchema
from tasks.forecasters.graph.graph_ops import Value, clip, fill_nan, join_columns, maximum, take

Base = Literal["auto", "last", "seasonal"]
_SEES_LEVEL = "preamble.sees_level"  # key in `learned`
CLIP_SD = 10.0  # a larger input is an error, and a linear model would follow it anywhere
_FLOOR_FRAC = 0.1  # of a small scale (5 % quantile): the scale of a constant series is no divisor
_BLOCK_ROWS = 4096  # rows at a time while learning: of 340 columns 6 MB, which fit in a cache
# Targets are clipped at so many times the 99 % quantile of |target|, for example a jump of a
# constant series
_OUTLIERS = 5.0


class NormalizedInputs(NamedTuple):
    """The inputs of n rows.

    last: the last known z, (n, 1).
    scale: the divisor of distances, (n, 1) or 1.
    inputs: (n, K), finite, within CLIP_SD.
    """

    last: Value
    scale: Value
    inputs: Value


def select_last_values(schema: FeatureSchema, x: Value) -> Value:
    """The last known z at each step: (n, H)."""
    return take(x, [schema.index(schema.last)] * schema.horizon_steps)


def list_dispensable_columns(schema: FeatureSchema) -> tuple[str, ...]:
    """Columns that the normalizer fills when unknown: not last value, season, scale, series."""
    needed = {schema.last, schema.scale, *schema.seasonal, *SERIES_KEY}
    return tuple(name for name in schema.names if name not in needed)


def check_columns(columns: tuple[str, ...] | None, schema: FeatureSchema, model: str) -> None:
    """Raises ForecasterError for a name in the parameter `columns` that is not in the table."""
    if unknown := sorted(set(columns or ()) - set(schema.names)):
        raise ForecasterError(
            f"`columns` of {model} names {unknown}, which the feature table has not. Declare them in"
            " `features.list`, or leave them out."
        )


def has_level_input(sees_level: bool | None, base: Base, schema: FeatureSchema) -> bool:
    """Whether the last value itself is among the inputs of a model that corrects *base*.

    sees_level: its parameter; None: only where no scale column makes levels comparable, and never
        with `base: last`, whose correction does not depend on the level (Zeng et al. 2023,
        arXiv:2205.13504).
    """
    return schema.scale is None and base != "last" if sees_level is None else sees_level


def select_seasonal_values(schema: FeatureSchema, x: Value) -> Value:
    """(n, H): z one season before each step; the last value where that is unknown."""
    last = select_last_values(schema, x)
    return (
        fill_nan(take(x, [schema.index(name) for name in schema.seasonal]), last) if schema.seasonal else last
    )


class Normalizer:
    """The input and output transform of every fitted model.

    learned: the dictionary that has its numbers, under `preamble.<name>`.
    columns: the columns that it uses; None: every column of every role except the series' keys,
        which are no quantities.
    sees_level: whether the last value itself is an input too; None: without a scale column, since
        then levels of all series are comparable.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        learned: dict[str, np.ndarray],
        columns: tuple[str, ...] | None = None,
        *,
        sees_level: bool | None = None,
    ) -> None:
        self.schema, self.learned = schema, learned
        self._wants_level = schema.scale is None if sees_level is None else sees_level
        chosen = [
            c
            for c in schema.columns
            if c.name not in {schema.last, *SERIES_KEY} and (columns is None or c.name in columns)
        ]
        self.levels, self.spreads, self.frees = (
            [schema.index(c.name) for c in chosen if c.role == role] for role in ("level", "spread", "free")
        )

    @property
    def n_inputs(self) -> int:
        """Number of inputs; without any column one input that is always 0."""
        return max(1, len(self.levels) + len(self.spreads) + len(self.frees) + self.sees_level)

    @property
    def sees_level(self) -> bool:
        """Whether the last value itself is an input.

        After a fit: whether it was one then. A fit without that number is older than the choice,
        and had the input wherever there was no scale column.
        """
        if "preamble.mean" not in self.learned:
            return self._wants_level
        return bool(self.learned.get(_SEES_LEVEL, self.schema.scale is None))

    def learn(self, x: np.ndarray) -> None:
        """Learn medians, floor, means and standard deviations from x (n, F)."""
        self.learned[_SEES_LEVEL] = np.array(self._wants_level)
        if self.schema.scale is not None:
            self._fit_scale(x[:, self.schema.index(self.schema.scale)])
        parts = list(split_blocks(len(x), _BLOCK_ROWS))
        others = np.concatenate(
            [np.concatenate([x[part][:, :0], *self._list_raw_inputs(x[part])], axis=1) for part in parts]
        )
        # An unknown level is the last value: the distance 0
        medians = np.concatenate([np.zeros(len(self.levels), dtype=np.float32), _compute_medians(others)])
        total = sum(
            fill_nan(self._join_raw_inputs(x[part]), medians).sum(axis=0, dtype=np.float64) for part in parts
        )
        mean = np.clip(total / len(x), -1e30, 1e30)
        squares = sum(
            np.square(np.clip(fill_nan(self._join_raw_inputs(x[part]), medians) - mean, -1e30, 1e30)).sum(
                axis=0
            )
            for part in parts
        )
        sd = np.sqrt(squares / len(x))
        self._update_learned(instead=medians, mean=mean, sd=np.where(sd > 1e-6 * np.abs(mean), sd, 1.0))

    def transform(self, x: Value) -> NormalizedInputs:
        """Last value, scale and inputs of x (n, F)."""
        inputs = (
            fill_nan(self._join_raw_inputs(x), self._get_learned("instead")) - self._get_learned("mean")
        ) / self._get_learned("sd")
        return NormalizedInputs(
            take(x, [self.schema.index(self.schema.last)]), self.scale(x), clip(inputs, CLIP_SD)
        )

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """The inputs of `transform` alone, (n, K), of many rows without large copies."""
        out = np.empty((len(x), self.n_inputs), dtype=np.float32)
        for part in split_blocks(len(x), _BLOCK_ROWS):
            out[part] = self.transform(x[part]).inputs
        return out

    def scale(self, x: Value) -> Value:
        """The divisor of distances: (n, 1), or 1 without a scale column."""
        if self.schema.scale is None:
            return np.float32(1)
        return maximum(
            fill_nan(take(x, [self.schema.index(self.schema.scale)]), self._get_learned("scale")),
            self._get_learned("floor"),
        )

    def base(self, x: Value, of: str) -> Value:
        """The base that a model adds its output to, (n, H)."""
        return (
            select_seasonal_values(self.schema, x) if of == "seasonal" else select_last_values(self.schema, x)
        )

    def decide_base(self, x: np.ndarray, z: np.ndarray, wanted: str) -> str:
        """`last` or `seasonal`: *wanted*, and for `auto` the one nearer to z over the pairs."""
        if wanted != "auto" or not self.schema.seasonal:
            return "last" if wanted == "auto" else wanted
        near = {
            of: _compute_known_mean(np.abs(z - self.base(x, of)) / self.scale(x))
            for of in ("last", "seasonal")
        }
        return min(near, key=near.__getitem__)

    def target(self, x: np.ndarray, z: np.ndarray, base: np.ndarray) -> np.ndarray:
        """The target of a model: the distance of z from *base* in units of the scale.

        (n, H) float32, NaN where z is; far outliers are clipped.
        """
        distance = (z - base) / self.scale(x)
        known = np.abs(distance[np.isfinite(distance)])
        bound = _OUTLIERS * float(np.quantile(known, 0.99)) if len(known) else 0.0
        return np.clip(distance, -bound, bound) if bound > 0 else distance

    def _fit_scale(self, scale: np.ndarray) -> None:
        known = scale[np.isfinite(scale) & (scale > 0)]
        if len(known) == 0:
            known = np.ones(1, dtype=np.float32)
        self._update_learned(
            scale=np.median(known), floor=max(_FLOOR_FRAC * float(np.quantile(known, 0.05)), 1e-30)
        )

    def _join_raw_inputs(self, x: Value) -> Value:
        last, scale = take(x, [self.schema.index(self.schema.last)]), self.scale(x)
        return join_columns(
            [*([(take(x, self.levels) - last) / scale] if self.levels else []), *self._list_raw_inputs(x)]
        )

    def _list_raw_inputs(self, x: Value) -> list[Value]:
        """All raw inputs except the levels; a column of 0 where there would be no input."""
        parts = [
            *([take(x, self.spreads) / self.scale(x)] if self.spreads else []),
            *([take(x, self.frees)] if self.frees else []),
            *([take(x, [self.schema.index(self.schema.last)])] if self.sees_level else []),
        ]
        if parts or self.levels:
            return parts
        last = take(x, [self.schema.index(self.schema.last)])
        return [last - last]

    def _update_learned(self, **numbers: np.ndarray | float) -> None:
        self.learned.update(
            {f"preamble.{name}": np.asarray(value, dtype=np.float32) for name, value in numbers.items()}
        )

    def _get_learned(self, name: str) -> np.ndarray:
        return self.learned[f"preamble.{name}"]


def get_level_column(schema: FeatureSchema, window_steps: int, model: str) -> str:
    """Name of the mean of z over *window_steps*; of window 1 the last value.

    Raises ForecasterError with the feature to declare.
    """
    name = schema.last if window_steps == 1 else f"z_mean_{window_steps}"
    if name not in schema.names:
        raise ForecasterError(
            f"{model} needs the column {name!r}, which the feature table has not. Declare {{kind: mean,"
            f" column: z, window_steps: [{window_steps}]}} in `features.list`, or change the model's window."
        )
    return name


def _compute_medians(raw: np.ndarray) -> np.ndarray:
    """Median of the known values of each column, 0 where none is."""
    return np.array(
        [np.median(known) if len(known := column[np.isfinite(column)]) else 0.0 for column in raw.T],
        dtype=np.float32,
    )


def _compute_known_mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0
