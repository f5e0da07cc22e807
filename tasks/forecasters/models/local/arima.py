"""Seasonal ARIMA of each series, estimated by statsmodels.

The orders are given, or are those of a short list that forecast the newest values best.
"""

from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.forecasters.parts.innovations import build_arima, compute_forecast_weights
from tasks.forecasters.parts.local import (
    LocalForecaster,
    LocalParams,
    WeightedSum,
    filter_warnings,
    score_ahead,
)

Order = Annotated[int, Field(ge=0, le=5)]
# The orders of most series of the M competitions
_SHORT_LIST = ((1, 0, 0), (2, 0, 1), (0, 1, 1), (1, 1, 1), (2, 1, 2))
_SEASONAL_LIST = ((0, 0, 0), (0, 1, 1))
_MAX_SEASON = 24  # a longer season takes seconds for each series


class ArimaParams(LocalParams):
    """The parameters of ARIMA.

    order: (p, d, q).
    seasonal_order: (P, D, Q) at `about.season_steps`; `auto` tries none and (0, 1, 1) for seasons
        up to 24 steps.
    """

    order: Literal["auto"] | tuple[Order, Order, Order] = "auto"
    seasonal_order: Literal["auto", "none"] | tuple[Order, Order, Order] = "auto"


class Arima(LocalForecaster):
    """SARIMA(p, d, q)(P, D, Q)_m on z, around its mean when nothing is differenced.

    Source: Box, Jenkins, Reinsel & Ljung 2015, Time Series Analysis, chapters 4 and 9.
    """

    Params = ArimaParams

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        if isinstance(self.params.seasonal_order, tuple) and schema.season_steps == 1:
            raise ForecasterError(
                f"{self.name}: `seasonal_order` is {self.params.seasonal_order}, but `about.season_steps` is"
                " 1. Set it to `none`, or give the season."
            )
        if self.params.order != "auto":
            self.check_n_values(
                self._count_values_needed(
                    self.params.order,
                    (
                        self.params.seasonal_order
                        if isinstance(self.params.seasonal_order, tuple)
                        else (0, 0, 0)
                    ),
                )
            )

    def fit_series(self, history: np.ndarray) -> WeightedSum:
        """Maximum likelihood.

        Several orders are fitted on the older four fifths, and the one that forecasts the newest
        fifth best is fitted on all values.
        """
        orders = self._list_orders(len(self.lags) + 1, len(history))
        older = history[: len(history) - len(history) // 5]
        errors = (
            []
            if len(orders) == 1
            else [
                (
                    np.inf
                    if (found := self._fit_order(older, *o)) is None
                    else score_ahead(found, history, len(older))
                )
                for o in orders
            ]
        )
        best = orders[int(np.argmin(errors))] if errors else orders[0]
        found = self._fit_order(history, *best)
        if found is None:
            raise ForecasterError(
                f"{self.name}: order {best} cannot be estimated on {len(history)} values. Give a simpler"
                " `order`."
            )
        return found

    def _fit_order(
        self, history: np.ndarray, order: tuple[int, ...], seasonal: tuple[int, ...]
    ) -> WeightedSum | None:
        # Takes 1.5 s, and other models do not need it
        from statsmodels.tsa.statespace.sarimax import SARIMAX

        season, centre = self.schema.season_steps if any(seasonal) else 0, float(history.mean())
        model = SARIMAX(
            history - centre, order=order, seasonal_order=(*seasonal, season), simple_differencing=True
        )
        try:
            with filter_warnings():
                fit = model.fit(disp=False, maxiter=60)
        except (np.linalg.LinAlgError, ValueError):  # the likelihood of the start is not computable
            return None
        ar, ma = fit.polynomial_reduced_ar, fit.polynomial_reduced_ma
        for gap in [1] * order[1] + [season] * seasonal[1]:
            ar = np.convolve(ar, [1.0, *np.zeros(gap - 1), -1.0])
        weights = compute_forecast_weights(
            build_arima(-ar[1:], ma[1:]), len(self.lags) + 1, self.schema.horizon_steps
        )
        return (
            WeightedSum(weights, weights.sum(axis=0) - 1, np.zeros(self.schema.horizon_steps), centre)
            if np.isfinite(weights).all()
            else None
        )

    def _list_orders(self, n_values: int, n_history: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        season = self.schema.season_steps
        plain = _SHORT_LIST if self.params.order == "auto" else (self.params.order,)
        wanted = self.params.seasonal_order
        seasonal = (
            (wanted,)
            if isinstance(wanted, tuple)
            else _SEASONAL_LIST
            if wanted == "auto" and 1 < season <= _MAX_SEASON
            else ((0, 0, 0),)
        )
        both = list(product(plain, seasonal))
        return [o for o in both if self._count_values_needed(*o) <= min(n_values, n_history // 2)] or (
            [((1, 0, 0), (0, 0, 0))] if self.params.order == "auto" else both
        )

    def _count_values_needed(self, order: tuple[int, ...], seasonal: tuple[int, ...]) -> int:
        """Values that the longest polynomial looks back on."""
        (p, d, q), (big_p, big_d, big_q), season = order, seasonal, self.schema.season_steps
        return max(p + d + season * (big_p + big_d), q + season * big_q, 1)
