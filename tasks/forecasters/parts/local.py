"""What the local models share: each series has numbers of its own, estimated by a library from its
own history inside the window.

A local model's forecast is a sum of the series' last values (tasks.forecasters.parts.innovations),
so it is one graph as any other, and between refits its state moves on with the values. A series
that the fit has never met gets no forecast: NaN.
"""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value, fill_nan, matmul_by_row, take
from tasks.forecasters.parts.series_encoder import SeriesEncoder

LEAST_VALUES = 12  # fewer say nothing about a model's parameters: the last value is repeated


class LocalParams(Strict):
    """values_steps: how many of the last values a forecast is a sum of, at most; as many of
    `z_lag_1`, `z_lag_2`, ... as are declared without a hole.

    max_steps: newest steps of a series that parameters are estimated from; an estimate costs some
    hundredths of a second for each series.
    """

    values_steps: Annotated[int, Field(ge=1)] = 336
    max_steps: Annotated[int, Field(ge=20)] = 1000


class WeightedSum(NamedTuple):
    """z_hat of step s = last + sum_k weights[k, s] (value k steps back - last) + pull[s] (last -
    centre) + constant[s].

    weights: (L, H), newest first; pull, constant: (H,).
    """

    weights: np.ndarray
    pull: np.ndarray
    constant: np.ndarray
    centre: float = 0.0


class LocalForecaster(Formula):
    """A forecast of each series from its own last values; its last value again where it has
    fewer than LEAST_VALUES, or never moves.
    """

    Params = LocalParams

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self._build_series_encoder()  # refuses a table without keys
        self.lags = [schema.index(name) for name in schema.lags("z")[: self.params.values_steps - 1]]

    @abstractmethod
    def fit_series(self, history: np.ndarray) -> WeightedSum:
        """The sum for a series with this history (n,), oldest first, n >= LEAST_VALUES, not
        constant.
        """

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Estimate each series by itself."""
        identity = self._build_series_encoder()
        number = identity.learn(x)
        steps, n_values = self.schema.horizon_steps, len(self.lags) + 1
        table = np.full((identity.n_series + 1, (n_values - 1) * steps + 2 * steps + 1), np.nan)
        for i in range(identity.n_series):
            table[i] = self._build_row(
                self._fit_or_fallback(build_history(x, z, number == i, self.schema)[-self.params.max_steps :])
            )
        self.learned["sums"] = table.astype(np.float32)

    def formula(self, x: Value) -> Value:
        """See `WeightedSum`."""
        last, steps, n_lags = (
            take(x, [self.schema.index(self.schema.last)]),
            self.schema.horizon_steps,
            len(self.lags),
        )
        own = self._build_series_encoder().of(x, self.learned["sums"])
        pull, constant, centre = (
            take(own, range(n_lags * steps + at, n_lags * steps + to))
            for at, to in ((0, steps), (steps, 2 * steps), (2 * steps, 2 * steps + 1))
        )
        out = last + pull * (last - centre) + constant
        if not n_lags:
            return out
        apart = fill_nan(take(x, self.lags), last) - last
        return out + matmul_by_row(apart, take(own, range(n_lags * steps)), n_lags, steps)

    def _build_series_encoder(self) -> SeriesEncoder:
        return SeriesEncoder(self.schema, self.learned, self.name)

    def _fit_or_fallback(self, history: np.ndarray) -> WeightedSum:
        if len(history) < LEAST_VALUES or np.ptp(history) <= 1e-9 * np.abs(history).max():
            return WeightedSum(
                np.zeros((len(self.lags) + 1, self.schema.horizon_steps)),
                np.zeros(self.schema.horizon_steps),
                np.zeros(self.schema.horizon_steps),
            )
        return self.fit_series(history)

    def _build_row(self, found: WeightedSum) -> np.ndarray:
        return np.concatenate([found.weights[1:].ravel(), found.pull, found.constant, [found.centre]])

    def check_n_values(self, n_values: int) -> None:
        """Raise ForecasterError when fewer of the last values are declared than the model's
        order needs.
        """
        if len(self.lags) + 1 < n_values:
            raise ForecasterError(
                f"{self.name} needs the last {n_values} values, but z_lag_1 to z_lag_{n_values - 1} are not"
                f" all declared (up to {len(self.lags)} without a hole). Declare {{kind: lag, column: z,"
                f" steps: [1, ..., {n_values - 1}]}} in `features.list`, or ask for a simpler model."
            )


@contextmanager
def filter_warnings() -> Iterator[None]:
    """Around an estimate: a flat likelihood warns, and the walk-forward says what the estimate is
    worth.

    Enter it after the library's import, which sets filters.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build_history(x: np.ndarray, z: np.ndarray, own: np.ndarray, schema: FeatureSchema) -> np.ndarray:
    """The values of one series (n,), oldest first, from its training pairs: the last value of each
    origin, then what the newest origin's targets add.

    own: (n_rows,) which rows are its. Steps that no pair shows are missing, so a long gap closes
    up.
    """
    values = x[own, schema.index(schema.last)].astype(np.float64)
    ahead = z[own][-1].astype(np.float64)
    unknown = np.flatnonzero(~np.isfinite(ahead))
    return np.concatenate([values, ahead[: unknown[0]] if len(unknown) else ahead])


def score_ahead(found: WeightedSum, history: np.ndarray, start: int) -> float:
    """Mean absolute error of the forecasts over all origins from *start* - 1 whose last values
    and whole horizon lie in *history* (n,).
    """
    n_values, steps = found.weights.shape
    first = max(start - 1, n_values - 1)
    windows = np.lib.stride_tricks.sliding_window_view(history, n_values + steps)[first - n_values + 1 :]
    if not len(windows):
        return np.inf
    values, ahead = windows[:, :n_values][:, ::-1], windows[:, n_values:]
    last = values[:, :1]
    z_hat = last + (values - last) @ found.weights + found.pull * (last - found.centre) + found.constant
    return float(np.abs(z_hat - ahead).mean())
