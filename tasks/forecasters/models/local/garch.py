"""GARCH and GJR of each series' returns, estimated by the library arch.

A volatility from returns differs from the target (a bar's range has no overnight gap), so z of each
step is regressed by least squares on the log of the standard deviation that the model expects then.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value, clip, fill_nan, log, maximum, take
from tasks.forecasters.parts.local import MIN_VALUES, filter_warnings
from tasks.forecasters.parts.series_encoder import SeriesEncoder

_TINY = 1e-30
_MAX_SLOPE = 2.0  # two measures of volatility move about alike; a steeper line is chance
_MAX_RETURN = 3.0  # a larger log return is an error in the data


class GarchParams(Strict):
    """The parameters of GARCH.

    column: the price; `{kind: value}` and `{kind: lag, steps: [1, 2, ...]}` of it must be declared.
    asymmetric: GJR, where negative returns have an additional coefficient.
    distribution: of the standardised returns.
    max_steps: newest steps of a series that parameters are estimated from.
    """

    column: str = "close"
    asymmetric: bool = True
    distribution: Literal["normal", "t"] = "t"
    max_steps: Annotated[int, Field(ge=100)] = 2500


class Garch(Formula):
    """z_hat_s = a_s + b_s (ln sd_s - its mean).

    sd_1^2 = w + sum_k beta^k (alpha + gamma [r < 0]) r_{t-k}^2 over the declared returns, later
    steps by recursion.
    Source: Glosten, Jagannathan & Runkle 1993, doi:10.1111/j.1540-6261.1993.tb05128.x; without
    gamma Bollerslev 1986, doi:10.1016/0304-4076(86)90063-1.
    """

    Params = GarchParams

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        SeriesEncoder(schema, self.learned, self.name)  # raises for a table without keys
        self.prices = self._get_price_columns()

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Estimate each series by itself, then regress its z on the expected deviation."""
        encoder = SeriesEncoder(self.schema, self.learned, self.name)
        number, steps, n_returns = encoder.learn(x), self.schema.horizon_steps, len(self.prices) - 1
        table = np.full((encoder.n_series + 1, 2 * n_returns + 2 + 5 * steps), np.nan)
        for i in range(encoder.n_series):
            rows = number == i
            variance = self._fit_variance(self._compute_returns(x[rows]))
            table[i] = self._fit_regression(variance, x[rows], z[rows])
        self.learned["series"] = table.astype(np.float32)

    def formula(self, x: Value) -> Value:
        """See the class."""
        steps = self.schema.horizon_steps
        encoder = SeriesEncoder(self.schema, self.learned, self.name)
        of_series = encoder.take_rows(x, self.learned["series"])
        start = 2 * (len(self.prices) - 1) + 2 + 2 * steps
        a, b, mean = (take(of_series, range(start + k * steps, start + (k + 1) * steps)) for k in range(3))
        return a + b * (self._predict_log_sd(x, of_series) - mean)

    def _predict_log_sd(self, x: Value, of_series: Value) -> Value:
        """ln of the standard deviation expected at each step, (n, H).

        of_series: (n, K), the parameters of each row's series.
        """
        n, steps = len(self.prices) - 1, self.schema.horizon_steps
        square, falling = self._compute_squares(x, take(of_series, [2 * n]))
        both = square * take(of_series, range(n)) + falling * take(of_series, range(n, 2 * n))
        first = both @ np.ones((n, 1), dtype=np.float32) + take(of_series, [2 * n + 1])
        ahead = first * take(of_series, range(2 * n + 2, 2 * n + 2 + steps)) + take(
            of_series, range(2 * n + 2 + steps, 2 * n + 2 + 2 * steps)
        )
        return log(maximum(ahead, np.full(1, _TINY, dtype=np.float32))) * np.float32(0.5)

    def _compute_squares(self, x: Value, mean: Value) -> tuple[Value, Value]:
        """Squared returns (n, K), newest first, and those of negative returns alone.

        mean: (n, 1), the squared return where a price is missing; half of it for the second.
        """
        tiny, one = np.full(1, _TINY, dtype=np.float32), np.float32(1)
        now, before = take(x, self.prices[:-1]), take(x, self.prices[1:])
        missing = (now + before) * np.float32(0)  # NaN there, 0 elsewhere
        ratio = maximum(maximum(fill_nan(now, one), tiny) / maximum(fill_nan(before, one), tiny), tiny)
        r = clip(log(ratio), _MAX_RETURN)
        fall = maximum(r * np.float32(-1), np.zeros(1, dtype=np.float32))
        return fill_nan(missing + r * r, mean), fill_nan(missing + fall * fall, mean * np.float32(0.5))

    def _compute_returns(self, x: np.ndarray) -> np.ndarray:
        now, before = x[:, self.prices[0]].astype(np.float64), x[:, self.prices[1]].astype(np.float64)
        is_known = (now > 0) & (before > 0)
        return np.log(now[is_known] / before[is_known])[-self.params.max_steps :]

    def _fit_variance(self, returns: np.ndarray) -> np.ndarray:
        """The parameters of the variance, in the order that `_predict_log_sd` reads.

        Weights of the squares, of those of negative returns, the mean square, the constant, and
        factor and constant of each step's variance.
        """
        n, steps = len(self.prices) - 1, self.schema.horizon_steps
        mean = float(np.mean(np.square(returns))) if len(returns) else 1.0
        omega, alpha, gamma, beta = self._fit_or_fallback(returns, max(mean, _TINY))
        decay = beta ** np.arange(n)
        persistence = alpha + gamma / 2 + beta
        factor = persistence ** np.arange(steps)
        constant = omega * np.concatenate([[0.0], np.cumsum(factor[:-1])])
        first = omega * decay.sum() + beta**n * mean
        return np.concatenate([alpha * decay, gamma * decay, [mean, first], factor, constant])

    def _fit_or_fallback(self, returns: np.ndarray, mean: float) -> tuple[float, float, float, float]:
        """omega, alpha, gamma, beta; the constant variance *mean* for too few returns."""
        if len(returns) < 5 * MIN_VALUES or np.ptp(returns) == 0:
            return mean, 0.0, 0.0, 0.0
        from arch import arch_model

        unit = 1 / np.sqrt(mean)  # the optimiser needs numbers near 1
        model = arch_model(
            returns * unit,
            mean="Zero",
            vol="GARCH",
            p=1,
            o=int(self.params.asymmetric),
            q=1,
            dist=self.params.distribution,
        )
        with filter_warnings():
            found = model.fit(disp="off", show_warning=False).params
        omega, alpha, beta = (float(found[name]) for name in ("omega", "alpha[1]", "beta[1]"))
        return omega * mean, alpha, float(found.get("gamma[1]", 0.0)), beta

    def _fit_regression(self, variance: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """*variance* with a_s, b_s and the mean of ln sd_s of each step.

        By least squares on the known pairs; the mean alone for a step with too few.
        """
        steps = self.schema.horizon_steps
        row = np.concatenate([variance, np.zeros(3 * steps)]).astype(np.float32)
        log_sd = self._predict_log_sd(x, np.broadcast_to(row, (len(x), len(row)))).astype(np.float64)
        a, b, mean = (
            np.full(steps, float(np.median(x[:, self.schema.index(self.schema.last)]))),
            np.zeros(steps),
            log_sd.mean(axis=0),
        )
        for s in range(steps):
            known = np.isfinite(z[:, s])
            u, y = log_sd[known, s], z[known, s].astype(np.float64)
            if not len(u):
                continue
            a[s], mean[s], spread = y.mean(), u.mean(), np.var(u)
            if len(u) >= MIN_VALUES and spread > _TINY:
                b[s] = np.clip(np.mean((u - u.mean()) * (y - y.mean())) / spread, 0.0, _MAX_SLOPE)
        return np.concatenate([variance, a, b, mean])

    def _get_price_columns(self) -> list[int]:
        """Positions of the price now, one step back, two, ... up to the first missing one."""
        column, names = self.params.column, self.schema.names
        wanted = [f"{column}_value", f"{column}_lag_1"]
        if missing := [name for name in wanted if name not in names]:
            raise ForecasterError(
                f"{self.name} needs the column(s) {missing}, which the feature table has not. Declare {{kind:"
                f" value, column: {column}}} and {{kind: lag, column: {column}, steps: [1, 2, ..., 60]}} in"
                " `features.list`."
            )
        return [self.schema.index(name) for name in (wanted[0], *self.schema.lags(column))]
