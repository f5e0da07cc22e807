"""The feature schema: which columns a model sees, in which order, and which part each plays.

Its hash is part of every release.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from tasks.core.strict import Strict

# The columns of the feature kind `series`; together they name a series
SERIES_KEY = ("series_key_high", "series_key_low")

# Series and the number that is subtracted from its level columns; 0 for a series not among them
Centres = tuple[tuple[str, float], ...]


def encode_series_id(series_id: str) -> tuple[int, int]:
    """The id as two whole numbers below 2^24, the same on every machine.

    They are the first 48 bits of its BLAKE2b hash; of 10,000 ids two collide with a chance of 2e-7.
    """
    whole = int.from_bytes(hashlib.blake2b(series_id.encode(), digest_size=6).digest(), "big")
    return whole >> 24, whole & 0xFFFFFF


class FeatureColumn(Strict):
    """One float32 column.

    role: `level` is in the space of z and moves with it (a lag, a mean); `spread` is a distance in
      that space (a standard deviation); `free` is independent of it (a weekday, a return).
    lookback_steps: how many steps before the row it reads.
    code: sha256 of the source of a user's function, so that its name fixes its computation, too;
      None for the project's own kinds.
    """

    name: str
    role: Literal["level", "spread", "free"]
    lookback_steps: int
    code: str | None = None


class FeatureSchema(Strict):
    """What a forecaster gets: x is (n, len(columns)) in this order.

    last: the column with the last known z at the origin; a row without it cannot be forecast.
    seasonal: for each step 1..horizon the column with z one season before that step's time; empty
      without a season.
    scale: the spread column that makes series of different size alike, or None.
    centres: what is subtracted, in float64, from the levels of a series and from its targets before
      they become float32, and added to its forecasts (tasks.features.centres).
    """

    columns: tuple[FeatureColumn, ...]
    last: str
    seasonal: tuple[str, ...] = ()
    scale: str | None = None
    horizon_steps: int
    season_steps: int
    # Not written where it is empty, so that releases of before keep their digest
    centres: Annotated[Centres, Field(exclude_if=lambda centres: not centres)] = ()

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [c.name for c in self.columns]

    @property
    def lookback_steps(self) -> int:
        """Steps before a row that all features together read.

        The tail of exactly that length gives the same numbers as the whole history.
        """
        return max(c.lookback_steps for c in self.columns)

    @property
    def hash(self) -> str:
        """sha256 over the canonical JSON.

        `code` counts only where there is some, so that older releases keep their hash. Centres are
        no part of it: they follow from the rows.
        """
        content = self.model_dump(exclude={"centres"})
        content["columns"] = [
            {k: v for k, v in column.items() if k != "code" or v} for column in content["columns"]
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def get_scales(self, x: np.ndarray) -> np.ndarray:
        """What residuals are divided by at each row of x (n, F): (n,) float64 of the scale column.

        1 without such a column, and where it is unknown or 0.
        """
        if self.scale is None:
            return np.ones(len(x))
        spread = x[:, self.index(self.scale)].astype(np.float64)
        return np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)

    def get_centres(self, series_ids: Sequence[str]) -> np.ndarray:
        """The centre of each of *series_ids*, float64."""
        return np.array([self._centre_of.get(name, 0.0) for name in series_ids], dtype=np.float64)

    @cached_property
    def _centre_of(self) -> dict[str, float]:
        return dict(self.centres)

    def lags(self, column: str) -> list[str]:
        """`<column>_lag_1`, `<column>_lag_2`, ... as far as they are declared without a gap."""
        declared: list[str] = []
        while (following := f"{column}_lag_{len(declared) + 1}") in self.names:
            declared.append(following)
        return declared

    def index(self, name: str) -> int:
        """Position of a column."""
        return self.names.index(name)
