"""Exponential smoothing of each series: level, trend and season, additive, which of them chosen by AICc; parameters by statsmodels."""

from itertools import product
from typing import Literal

import numpy as np

from tasks.forecasters.parts.innovations import forecast_weights, smoothing
from tasks.forecasters.parts.local import Local, LocalParams, Sum, quiet


class EtsParams(LocalParams):
    """trend, seasonal: `auto` tries without and with it, and keeps what has the lower AICc. A trend is damped.

    A series with fewer than two seasons of history has none, whatever is asked for.
    """

    trend: Literal["auto", "none", "damped"] = "auto"
    seasonal: Literal["auto", "none", "add"] = "auto"


class Ets(Local):
    """ETS(A, N or Ad, N or A). Source: Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., chapter 8."""

    Params = EtsParams

    def estimate(self, history: np.ndarray) -> Sum:
        """Maximum likelihood of each form that is asked for and that the window of values can show."""
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel  # noqa: PLC0415  (1.5 s: other models do without)

        season, n_values, steps = self.schema.season_steps, len(self.lags) + 1, self.schema.horizon_steps
        forms = product(self._trend(), self._seasonal(len(history), n_values))
        with quiet():
            fits = [
                ETSModel(history, trend=t, damped_trend=t is not None, seasonal=s, seasonal_periods=season if s else None).fit(disp=False)
                for t, s in forms
            ]
        best = min(fits, key=lambda fit: fit.aicc if np.isfinite(fit.aicc) else np.inf)
        beta, phi = (best.beta, best.phi) if best.model.has_trend else (None, 1.0)
        form = smoothing(best.alpha, beta, phi, best.gamma if best.model.has_seasonal else None, season)
        return Sum(forecast_weights(form, n_values, steps), np.zeros(steps), np.zeros(steps))

    def _trend(self) -> list[str | None]:
        both: dict[str, list[str | None]] = {"auto": [None, "add"], "none": [None], "damped": ["add"]}
        return both[self.params.trend]

    def _seasonal(self, n_history: int, n_values: int) -> list[str | None]:
        """What to try. A season needs two of its lengths, in the history and among the values that a forecast is a sum of."""
        season, wanted = self.schema.season_steps, self.params.seasonal
        if wanted == "none" or (season == 1 and wanted == "auto"):
            return [None]
        if wanted == "add":
            self.need_values(2 * season)
        enough = season > 1 and min(n_history, n_values) >= 2 * season
        return ["add"] if wanted == "add" and enough else [None, "add"] if enough else [None]
