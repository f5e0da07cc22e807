"""Exponential smoothing of each series, estimated by statsmodels.

Additive level, trend and season; AICc decides which of them.
"""

from itertools import product
from typing import Literal

import numpy as np

from tasks.forecasters.parts.innovations import build_smoothing, compute_forecast_weights
from tasks.forecasters.parts.local import LocalForecaster, LocalParams, WeightedSum, filter_warnings


class EtsParams(LocalParams):
    """trend, seasonal: `auto` tries without and with it, and keeps the form with the lower AICc.

    A trend is damped. A series with fewer than two seasons of history has no season in any case.
    """

    trend: Literal["auto", "none", "damped"] = "auto"
    seasonal: Literal["auto", "none", "add"] = "auto"


class Ets(LocalForecaster):
    """ETS(A, N or Ad, N or A).

    Source: Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., chapter 8.
    """

    Params = EtsParams

    def fit_series(self, history: np.ndarray) -> WeightedSum:
        """Maximum likelihood of each form that is allowed and that the window can show."""
        # Takes 1.5 s, and other models do not need it
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
        """The seasonal forms to try.

        A season needs two of its lengths, in the history and in the values of the forecast's sum.
        """
        season, wanted = self.schema.season_steps, self.params.seasonal
        if wanted == "none" or (season == 1 and wanted == "auto"):
            return [None]
        if wanted == "add":
            self.check_n_values(2 * season)
        enough = season > 1 and min(n_history, n_values) >= 2 * season
        return ["add"] if wanted == "add" and enough else [None, "add"] if enough else [None]
