"""GARCH and GJR of each series' returns, brought to the target's scale by least squares; parameters
by the library arch.

A volatility from returns is not the one that is forecast (a bar's range has no overnight gap), so z
of each step is regressed on the log of the standard deviation that the model expects then.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value, clip, fill_nan, log, maximum, take
from tasks.forecasters.parts.local import LEAST_VALUES, filter_warnings
from tasks.forecasters.parts.series_encoder import SeriesEncoder

_TINY = 1e-30
_MOST_SLOPE = 2.0  # volatility of one measure moves about as that of another; a steeper line is chance
_MOST_RETURN = 3.0  # a log return further out is an accident of the data


class GarchParams(Strict):
    """column: the price; `{kind: value}` and `{kind: lag, steps: [1, 2, ...]}` of it must be
    declared. asymmetric: GJR, where falls count more.

    distribution: of the standardised returns. max_steps: newest steps of a series that parameters
    are estimated from.
    """

    column: str = "close"
    asymmetric: bool = True
    distribution: Literal["normal", "t"] = "t"
    max_steps: Annotated[int, Field(ge=100)] = 2500


class Garch(Formula):
    """z_hat_s = a_s + b_s (ln sd_s - its mean), sd_1^2 = w + sum_k beta^k (alpha + gamma [r < 0])
    r_{t-k}^2 over the returns declared, later steps by recursion.

    Source: Glosten, Jagannathan & Runkle 1993, doi:10.1111/j.1540-6261.1993.tb05128.x; without
    gamma Bollerslev 1986, doi:10.1016/0304-4076(86)90063-1.
    """

    Params = GarchParams

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        SeriesEncoder(schema, self.learned, self.name)  # refuses a table without keys
        self.prices = self._get_price_columns()

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Estimate each series by itself, then regress its z on what the model expected."""
        identity = SeriesEncoder(self.schema, self.learned, self.name)
        number, steps, n_returns = identity.learn(x), self.schema.horizon_steps, len(self.prices) - 1
        table = np.full((identity.n_series + 1, 2 * n_returns + 2 + 5 * steps), np.nan)
        for i in range(identity.n_series):
            own = number == i
            table[i] = self._fit_regression(self._fit_variance(self._compute_returns(x[own])), x[own], z[own])
        self.learned["series"] = table.astype(np.float32)

    def formula(self, x: Value) -> Value:
        """See the class."""
        steps = self.schema.horizon_steps
        own = SeriesEncoder(self.schema, self.learned, self.name).of(x, self.learned["series"])
        at = 2 * (len(self.prices) - 1) + 2 + 2 * steps
        a, b, usual = (take(own, range(at + k * steps, at + (k + 1) * steps)) for k in range(3))
        return a + b * (self._predict_log_sd(x, own) - usual)

    def _predict_log_sd(self, x: Value, own: Value) -> Value:
        """ln of the standard deviation expected at each step, (n, H). own: (n, K) the numbers of
        each row's series.
        """
        n, steps = len(self.prices) - 1, self.schema.horizon_steps
        square, falling = self._compute_squares(x, take(own, [2 * n]))
        both = square * take(own, range(n)) + falling * take(own, range(n, 2 * n))
        first = both @ np.ones((n, 1), dtype=np.float32) + take(own, [2 * n + 1])
        ahead = first * take(own, range(2 * n + 2, 2 * n + 2 + steps)) + take(
            own, range(2 * n + 2 + steps, 2 * n + 2 + 2 * steps)
        )
        return log(maximum(ahead, np.full(1, _TINY, dtype=np.float32))) * np.float32(0.5)

    def _compute_squares(self, x: Value, usual: Value) -> tuple[Value, Value]:
        """Squared returns (n, K), newest first, and those of falls alone; *usual* (n, 1) and
        half of it where a price is missing.
        """
        tiny, one = np.full(1, _TINY, dtype=np.float32), np.float32(1)
        now, before = take(x, self.prices[:-1]), take(x, self.prices[1:])
        missing = (now + before) * np.float32(0)  # NaN there, 0 elsewhere
        ratio = maximum(maximum(fill_nan(now, one), tiny) / maximum(fill_nan(before, one), tiny), tiny)
        r = clip(log(ratio), _MOST_RETURN)
        fall = maximum(r * np.float32(-1), np.zeros(1, dtype=np.float32))
        return fill_nan(missing + r * r, usual), fill_nan(missing + fall * fall, usual * np.float32(0.5))

    def _compute_returns(self, x: np.ndarray) -> np.ndarray:
        now, before = x[:, self.prices[0]].astype(np.float64), x[:, self.prices[1]].astype(np.float64)
        there = (now > 0) & (before > 0)
        return np.log(now[there] / before[there])[-self.params.max_steps :]

    def _fit_variance(self, returns: np.ndarray) -> np.ndarray:
        """Weights of the squares, of those of falls, the usual square, the constant, and factor
        and constant of each step's variance.
        """
        n, steps = len(self.prices) - 1, self.schema.horizon_steps
        usual = float(np.mean(np.square(returns))) if len(returns) else 1.0
        omega, alpha, gamma, beta = self._fit_or_fallback(returns, max(usual, _TINY))
        decay = beta ** np.arange(n)
        lasting = alpha + gamma / 2 + beta
        factor = lasting ** np.arange(steps)
        constant = omega * np.concatenate([[0.0], np.cumsum(factor[:-1])])
        first = omega * decay.sum() + beta**n * usual
        return np.concatenate([alpha * decay, gamma * decay, [usual, first], factor, constant])

    def _fit_or_fallback(self, returns: np.ndarray, usual: float) -> tuple[float, float, float, float]:
        """omega, alpha, gamma, beta; a constant variance for a series that says too little."""
        if len(returns) < 5 * LEAST_VALUES or np.ptp(returns) == 0:
            return usual, 0.0, 0.0, 0.0
        from arch import arch_model

        unit = 1 / np.sqrt(usual)  # the optimiser wants numbers near 1
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
        return omega * usual, alpha, float(found.get("gamma[1]", 0.0)), beta

    def _fit_regression(self, variance: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """*variance* with a_s, b_s and the mean of ln sd_s of each step: least squares on the
        pairs known, the mean where a step has too few.
        """
        steps = self.schema.horizon_steps
        row = np.concatenate([variance, np.zeros(3 * steps)]).astype(np.float32)
        log_sd = self._predict_log_sd(x, np.broadcast_to(row, (len(x), len(row)))).astype(np.float64)
        a, b, usual = (
            np.full(steps, float(np.median(x[:, self.schema.index(self.schema.last)]))),
            np.zeros(steps),
            log_sd.mean(axis=0),
        )
        for s in range(steps):
            known = np.isfinite(z[:, s])
            u, y = log_sd[known, s], z[known, s].astype(np.float64)
            if not len(u):
                continue
            a[s], usual[s], spread = y.mean(), u.mean(), np.var(u)
            if len(u) >= LEAST_VALUES and spread > _TINY:
                b[s] = np.clip(np.mean((u - u.mean()) * (y - y.mean())) / spread, 0.0, _MOST_SLOPE)
        return np.concatenate([variance, a, b, usual])

    def _get_price_columns(self) -> list[int]:
        """Positions of the price now, one step back, two, ... as far as they go without a hole."""
        column, names = self.params.column, self.schema.names
        wanted = [f"{column}_value", f"{column}_lag_1"]
        if missing := [name for name in wanted if name not in names]:
            raise ForecasterError(
                f"{self.name} needs the column(s) {missing}, which the feature table has not. Declare {{kind:"
                f" value, column: {column}}} and {{kind: lag, column: {column}, steps: [1, 2, ..., 60]}} in"
                " `features.list`."
            )
        return [self.schema.index(name) for name in (wanted[0], *self.schema.lags(column))]
