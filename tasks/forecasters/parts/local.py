"""The base class of the local models, which estimate each series from its own history.

A local model's forecast is a sum of the series' last values (tasks.forecasters.parts.innovations),
so it is a graph as any other, and between refits new values update its state. A series that is not
in the fit has no forecast: NaN.
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

MIN_VALUES = 12  # too few to estimate parameters: the last value is repeated


class LocalParams(Strict):
    """The parameters of every local model.

    values_steps: how many of the last values are in a forecast's sum, at most; as many of
        `z_lag_1`, `z_lag_2`, ... as are declared without a gap.
    max_steps: newest steps of a series that parameters are estimated from; an estimate takes some
        hundredths of a second for each series.
    """

    values_steps: Annotated[int, Field(ge=1)] = 336
    max_steps: Annotated[int, Field(ge=20)] = 1000


class WeightedSum(NamedTuple):
    """The forecast of a series as a weighted sum of its last values.

    z_hat of step s = last + sum_k weights[k, s] (value k steps back - last) + pull[s] (last -
    centre) + constant[s].
    weights: (L, H), newest first. pull, constant: (H,).
    """

    weights: np.ndarray
    pull: np.ndarray
    constant: np.ndarray
    centre: float = 0.0


class LocalForecaster(Formula):
    """A forecast of each series from its own last values.

    The last value for a series with fewer than MIN_VALUES values, or with a constant one.
    """

    Params = LocalParams

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self._build_series_encoder()  # raises for a table without keys
        self.lags = [schema.index(name) for name in schema.lags("z")[: self.params.values_steps - 1]]

    @abstractmethod
    def fit_series(self, history: np.ndarray) -> WeightedSum:
        """The sum of a series with this history (n,), oldest first.

        n >= MIN_VALUES, and the values are not constant.
        """

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Estimate each series by itself."""
        encoder = self._build_series_encoder()
        number = encoder.learn(x)
        steps, n_values = self.schema.horizon_steps, len(self.lags) + 1
        table = np.full((encoder.n_series + 1, (n_values - 1) * steps + 2 * steps + 1), np.nan)
        for i in range(encoder.n_series):
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
        of_series = self._build_series_encoder().take_rows(x, self.learned["sums"])
        pull, constant, centre = (
            take(of_series, range(n_lags * steps + start, n_lags * steps + stop))
            for start, stop in ((0, steps), (steps, 2 * steps), (2 * steps, 2 * steps + 1))
        )
        out = last + pull * (last - centre) + constant
        if not n_lags:
            return out
        distance = fill_nan(take(x, self.lags), last) - last
        return out + matmul_by_row(distance, take(of_series, range(n_lags * steps)), n_lags, steps)

    def _build_series_encoder(self) -> SeriesEncoder:
        return SeriesEncoder(self.schema, self.learned, self.name)

    def _fit_or_fallback(self, history: np.ndarray) -> WeightedSum:
        if len(history) < MIN_VALUES or np.ptp(history) <= 1e-9 * np.abs(history).max():
            return WeightedSum(
                np.zeros((len(self.lags) + 1, self.schema.horizon_steps)),
                np.zeros(self.schema.horizon_steps),
                np.zeros(self.schema.horizon_steps),
            )
        return self.fit_series(history)

    def _build_row(self, found: WeightedSum) -> np.ndarray:
        return np.concatenate([found.weights[1:].ravel(), found.pull, found.constant, [found.centre]])

    def check_n_values(self, n_values: int) -> None:
        """Raise ForecasterError when the declared lags are too few for the model's order."""
        if len(self.lags) + 1 < n_values:
            raise ForecasterError(
                f"{self.name} needs the last {n_values} values, but z_lag_1 to z_lag_{n_values - 1} are not"
                f" all declared (up to {len(self.lags)} without a gap). Declare {{kind: lag, column: z,"
                f" steps: [1, ..., {n_values - 1}]}} in `features.list`, or ask for a simpler model."
            )


@contextmanager
def filter_warnings() -> Iterator[None]:
    """Ignore the warnings of an estimate: a flat likelihood warns, and backtesting evaluates it.

    Enter it after the library's import, which sets filters.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build_history(x: np.ndarray, z: np.ndarray, rows: np.ndarray, schema: FeatureSchema) -> np.ndarray:
    """The values of one series (n,), oldest first, from its training pairs.

    The last value of each origin, then the targets of the newest origin. Steps without any pair are
    left out, also in a long gap.
    rows: (n_rows,), whether a row is of the series.
    """
    values = x[rows, schema.index(schema.last)].astype(np.float64)
    ahead = z[rows][-1].astype(np.float64)
    unknown = np.flatnonzero(~np.isfinite(ahead))
    return np.concatenate([values, ahead[: unknown[0]] if len(unknown) else ahead])


def score_ahead(found: WeightedSum, history: np.ndarray, start: int) -> float:
    """Mean absolute error of the forecasts of all origins from *start* - 1 on.

    Of those whose last values and whole horizon are in *history* (n,).
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
