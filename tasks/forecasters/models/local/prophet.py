"""Prophet of each series, estimated by the library prophet.

A trend with changepoints, and seasons of a year, a week and a day. The forecast is a function of
time alone, and the last values do not matter. So the graph needs the columns of the feature kind
`time`, and the steps of a series must be equally long (`calendar: continuous`).
"""

import logging
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value, cos, fmod, sin, take
from tasks.forecasters.parts.local import MIN_VALUES, filter_warnings
from tasks.forecasters.parts.series_encoder import SeriesEncoder

_TIME = ("time_days", "time_day_frac")
_PERIOD_DAYS = {"yearly": 365.25, "weekly": 7.0, "daily": 1.0}
Season = Literal["auto"] | Annotated[int, Field(ge=0, le=30)]


class ProphetParams(Strict):
    """The parameters of Prophet.

    growth: whether there is a trend.
    yearly, weekly, daily: harmonics of each season (0: none; `auto`: Prophet's own number, for as
        long a history as Prophet requires).
    changepoint_prior, seasonality_prior: how freely trend and seasons may change.
    max_steps: newest steps of a series that are fitted.
    """

    growth: Literal["linear", "flat"] = "linear"
    yearly: Season = "auto"
    weekly: Season = "auto"
    daily: Season = "auto"
    changepoint_prior: Annotated[float, Field(gt=0)] = 0.05
    seasonality_prior: Annotated[float, Field(gt=0)] = 10.0
    max_steps: Annotated[int, Field(ge=20)] = 3000


class Prophet(Formula):
    """z_hat_s = level + slope * days since the fit's end + seasons, at t = origin + s steps.

    A season is the sum over k of a_k sin(2 pi k t / period) + b_k cos(2 pi k t / period).
    Source: Taylor & Letham 2018, doi:10.1080/00031305.2017.1380080.
    """

    Params = ProphetParams

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        SeriesEncoder(schema, self.learned, self.name)  # raises for a table without keys
        if missing := [name for name in _TIME if name not in schema.names]:
            raise ForecasterError(
                f"{self.name} needs the column(s) {missing}, which the feature table has not. Declare {{kind:"
                " time} in `features.list`."
            )

    @override
    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Fit each series by itself, to the values of the origins, not to z."""
        encoder = SeriesEncoder(self.schema, self.learned, self.name)
        number = encoder.learn(x)
        days, frac = (x[:, self.schema.index(name)].astype(np.float64) for name in _TIME)
        values = x[:, self.schema.index(self.schema.last)].astype(np.float64)
        table = np.full((encoder.n_series + 1, 4 + 2 * sum(self._n_harmonics.values())), np.nan)
        for i in range(encoder.n_series):
            rows = np.flatnonzero(number == i)[-self.params.max_steps :]
            table[i] = self._fit_library_model(days[rows] + frac[rows], values[rows])
        self.learned["series"] = table.astype(np.float32)

    def formula(self, x: Value) -> Value:
        """See the class."""
        encoder = SeriesEncoder(self.schema, self.learned, self.name)
        of_series = encoder.take_rows(x, self.learned["series"])
        end, step, level, slope = (take(of_series, [k]) for k in range(4))
        days, frac = (take(x, [self.schema.index(name)]) for name in _TIME)
        ahead = frac + step * np.arange(1, self.schema.horizon_steps + 1, dtype=np.float32)
        out, column = level + slope * (days - end + ahead), 4
        for name, n_harmonics in self._n_harmonics.items():
            phase = (fmod(days, _PERIOD_DAYS[name]) + ahead) * np.float32(2 * np.pi / _PERIOD_DAYS[name])
            for k in range(1, n_harmonics + 1):
                angle = phase * np.float32(k)
                out = (
                    out + take(of_series, [column]) * sin(angle) + take(of_series, [column + 1]) * cos(angle)
                )
                column += 2
        return out

    @property
    def _n_harmonics(self) -> dict[str, int]:
        """Harmonics of each season among the numbers of a series; 0 where Prophet has no season."""
        defaults = {"yearly": 10, "weekly": 3, "daily": 4}  # Prophet's own numbers
        return {
            name: defaults[name] if getattr(self.params, name) == "auto" else getattr(self.params, name)
            for name in _PERIOD_DAYS
        }

    def _fit_library_model(self, days: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The numbers of one series, (4 + 2 * harmonics,).

        End in whole days, days of a step, level at the end, slope per day, then a_k and b_k of each
        season.
        """
        row = np.zeros(4 + 2 * sum(self._n_harmonics.values()))
        row[:3] = np.floor(days[-1]), float(np.median(np.diff(days))) if len(days) > 1 else 1.0, values[-1]
        if len(values) < MIN_VALUES or np.ptp(values) <= 1e-9 * np.abs(values).max():
            return row  # too little to fit: the last value is the forecast
        model = self._build_model(days, values)
        y_scale, t_scale = float(model.y_scale), model.t_scale.total_seconds() / 86400
        params = {
            name: np.asarray(model.params[name], dtype=np.float64).reshape(-1)
            for name in ("k", "m", "delta", "beta")
        }
        slope, offset = params["k"][0], params["m"][0]
        if self.params.growth == "linear":
            slope, offset = (
                slope + params["delta"].sum(),
                offset - (np.asarray(model.changepoints_t) * params["delta"]).sum(),
            )
        start = model.start.timestamp() / 86400
        row[2] = y_scale * (
            offset + (slope * (row[0] - start) / t_scale if self.params.growth == "linear" else 0.0)
        )
        row[3] = y_scale * slope / t_scale if self.params.growth == "linear" else 0.0
        beta = iter(y_scale * params["beta"])
        waves = {
            name: [next(beta) for _ in range(2 * found["fourier_order"])]
            for name, found in model.seasonalities.items()
        }
        column = 4
        for name, n_harmonics in self._n_harmonics.items():
            season = waves.get(name, [])
            row[column : column + len(season)] = season
            column += 2 * n_harmonics
        return row

    def _build_model(self, days: np.ndarray, values: np.ndarray) -> Any:
        import pandas as pd
        from prophet import Prophet as Library

        for name in ("cmdstanpy", "prophet"):
            # They log a line for each fit, and later imports set their levels again
            logging.getLogger(name).disabled = True
        seasons = {
            f"{name}_seasonality": (
                wanted if (wanted := getattr(self.params, name)) == "auto" else wanted or False
            )
            for name in _PERIOD_DAYS
        }
        model = Library(
            growth=self.params.growth,
            changepoint_prior_scale=self.params.changepoint_prior,
            seasonality_prior_scale=self.params.seasonality_prior,
            uncertainty_samples=0,
            **seasons,
        )
        times = pd.to_datetime(np.round(days * 86400), unit="s")
        with filter_warnings():
            return model.fit(pd.DataFrame({"ds": times, "y": values}), seed=self.seed)
