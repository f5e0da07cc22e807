"""Theta: simple exponential smoothing with half of the linear trend as drift, by statsmodels.

After the season is removed.
"""

import numpy as np

from tasks.forecasters.parts.innovations import InnovationsModel, build_smoothing, compute_forecast_weights
from tasks.forecasters.parts.local import LocalForecaster, WeightedSum, filter_warnings


class Theta(LocalForecaster):
    """Smoothing with drift, on the seasonally adjusted values.

    Source: Assimakopoulos & Nikolopoulos 2000, doi:10.1016/S0169-2070(00)00066-2; as smoothing with
    drift: Hyndman & Billah 2003, doi:10.1016/S0169-2070(01)00143-1.
    """

    def fit_series(self, history: np.ndarray) -> WeightedSum:
        """Smoothing and trend of the seasonally adjusted history; the season is the last one."""
        # Takes 1.5 s, and other models do not need it
        from statsmodels.tsa.forecasting.theta import ThetaModel

        season, n_values, steps = self.schema.season_steps, len(self.lags) + 1, self.schema.horizon_steps
        seasonal = season > 1 and min(len(history), n_values) >= 2 * season
        with filter_warnings():
            fit = ThetaModel(
                history, period=season if seasonal else 1, deseasonalize=seasonal, method="additive"
            ).fit()
        form: InnovationsModel = build_smoothing(
            float(fit.params["alpha"]), None, 1.0, 0.0 if seasonal else None, season
        )
        weights = compute_forecast_weights(form, n_values, steps)
        # The drift is in every value of the window too: subtracted before smoothing, and added
        # again at each step
        drift = float(fit.params["b0"]) / 2
        ahead = np.arange(1, steps + 1)
        return WeightedSum(weights, np.zeros(steps), drift * (ahead + np.arange(n_values) @ weights))
