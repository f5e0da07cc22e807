"""Exponential smoothing of each series: level, trend and season, additive, which of them chosen
by AICc; parameters by statsmodels.
"""

from itertools import product
from typing import Literal

import numpy as np

from tasks.forecasters.parts.innovations import build_smoothing, compute_forecast_weights
from tasks.forecasters.parts.local import LocalForecaster, LocalParams, WeightedSum, filter_warnings


class EtsParams(LocalParams):
    """trend, seasonal: `auto` tries without and with it, and keeps what has the lower AICc.

    A trend is damped. A series with fewer than two seasons of history has none, whatever is asked
    for.
    """

    trend: Literal["auto", "none", "damped"] = "auto"
    seasonal: Literal["auto", "none", "add"] = "auto"


class Ets(LocalForecaster):
    """ETS(A, N or Ad, N or A).

    Source: Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., chapter 8.
    """

    Params = EtsParams

    def fit_series(self, history: np.ndarray) -> WeightedSum:
        """Maximum likelihood of each form that is asked for and that the window of values can
        show.
        """
        # 1.5 s: other models do without
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel

        season, n_values, steps = self.schema.season_steps, len(self.lags) + 1, self.schema.horizon_steps
        forms = product(self._list_trends(), self._list_seasonals(len(history), n_values))
        with filter_warnings():
            fits = [
                ETSModel(
                    history,
                    trend=t,
                    damped_trend=t is not None,
                    seasonal=s,
                    seasonal_periods=season if s else None,
                ).fit(disp=False)
                for t, s in forms
            ]
        best = min(fits, key=lambda fit: fit.aicc if np.isfinite(fit.aicc) else np.inf)
        beta, phi = (best.beta, best.phi) if best.model.has_trend else (None, 1.0)
        form = build_smoothing(best.alpha, beta, phi, best.gamma if best.model.has_seasonal else None, season)
        return WeightedSum(compute_forecast_weights(form, n_values, steps), np.zeros(steps), np.zeros(steps))

    def _list_trends(self) -> list[str | None]:
        both: dict[str, list[str | None]] = {"auto": [None, "add"], "none": [None], "damped": ["add"]}
        return both[self.params.trend]

    def _list_seasonals(self, n_history: int, n_values: int) -> list[str | None]:
        """What to try.

        A season needs two of its lengths, in the history and among the values that a forecast is a
        sum of.
        """
        season, wanted = self.schema.season_steps, self.params.seasonal
        if wanted == "none" or (season == 1 and wanted == "auto"):
            return [None]
        if wanted == "add":
            self.check_n_values(2 * season)
        enough = season > 1 and min(n_history, n_values) >= 2 * season
        return ["add"] if wanted == "add" and enough else [None, "add"] if enough else [None]
