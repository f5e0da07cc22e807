"""Prophet of each series: a trend that may bend, and seasons of a year, a week and a day;
parameters by the library prophet.

Its forecast is a function of time alone: where a series stands now does not count. So its graph
needs the columns of the feature kind `time`, and the steps of a series must be equally long
(`calendar: continuous`).
"""

import logging
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value, cos, fmod, sin, take
from tasks.forecasters.parts.local import LEAST_VALUES, filter_warnings
from tasks.forecasters.parts.series_encoder import SeriesEncoder

_TIME = ("time_days", "time_day_frac")
_PERIOD_DAYS = {"yearly": 365.25, "weekly": 7.0, "daily": 1.0}
Season = Literal["auto"] | Annotated[int, Field(ge=0, le=30)]


class ProphetParams(Strict):
    """growth: whether there is a trend. yearly, weekly, daily: turns of each season (0: none;
    `auto`: as long a history as Prophet asks for, and its own number).

    changepoint_prior, seasonality_prior: how freely trend and seasons may move. max_steps: newest
    steps of a series that are fitted.
    """

    growth: Literal["linear", "flat"] = "linear"
    yearly: Season = "auto"
    weekly: Season = "auto"
    daily: Season = "auto"
    changepoint_prior: Annotated[float, Field(gt=0)] = 0.05
    seasonality_prior: Annotated[float, Field(gt=0)] = 10.0
    max_steps: Annotated[int, Field(ge=20)] = 3000


class Prophet(Formula):
    """z_hat_s = level + slope * days since the fit's end + sum over seasons and turns k of a_k
    sin(2 pi k t / period) + b_k cos(2 pi k t / period), at t = origin + s steps.

    Source: Taylor & Letham 2018, doi:10.1080/00031305.2017.1380080.
    """

    Params = ProphetParams

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        SeriesEncoder(schema, self.learned, self.name)  # refuses a table without keys
        if missing := [name for name in _TIME if name not in schema.names]:
            raise ForecasterError(
                f"{self.name} needs the column(s) {missing}, which the feature table has not. Declare {{kind:"
                " time} in `features.list`."
            )

    # What is fitted are the values of the origins
    def learn(self, x: np.ndarray, z: np.ndarray) -> None:  # noqa: ARG002
        """Fit each series by itself."""
        identity = SeriesEncoder(self.schema, self.learned, self.name)
        number = identity.learn(x)
        days, frac = (x[:, self.schema.index(name)].astype(np.float64) for name in _TIME)
        values = x[:, self.schema.index(self.schema.last)].astype(np.float64)
        table = np.full((identity.n_series + 1, 4 + 2 * sum(self._n_harmonics.values())), np.nan)
        for i in range(identity.n_series):
            own = np.flatnonzero(number == i)[-self.params.max_steps :]
            table[i] = self._fit_library_model(days[own] + frac[own], values[own])
        self.learned["series"] = table.astype(np.float32)

    def formula(self, x: Value) -> Value:
        """See the class."""
        own = SeriesEncoder(self.schema, self.learned, self.name).of(x, self.learned["series"])
        end, step, level, slope = (take(own, [k]) for k in range(4))
        days, frac = (take(x, [self.schema.index(name)]) for name in _TIME)
        ahead = frac + step * np.arange(1, self.schema.horizon_steps + 1, dtype=np.float32)
        out, at = level + slope * (days - end + ahead), 4
        for name, turns in self._n_harmonics.items():
            turned = (fmod(days, _PERIOD_DAYS[name]) + ahead) * np.float32(2 * np.pi / _PERIOD_DAYS[name])
            for k in range(1, turns + 1):
                angle = turned * np.float32(k)
                out = out + take(own, [at]) * sin(angle) + take(own, [at + 1]) * cos(angle)
                at += 2
        return out

    @property
    def _n_harmonics(self) -> dict[str, int]:
        """Room for each season in the numbers of a series; where Prophet leaves a season out,
        they are 0.
        """
        own = {"yearly": 10, "weekly": 3, "daily": 4}  # Prophet's own numbers
        return {
            name: own[name] if getattr(self.params, name) == "auto" else getattr(self.params, name)
            for name in _PERIOD_DAYS
        }

    def _fit_library_model(self, days: np.ndarray, values: np.ndarray) -> np.ndarray:
        """End in whole days, days of a step, level at the end, slope a day, then a_k and b_k of
        each season.
        """
        row = np.zeros(4 + 2 * sum(self._n_harmonics.values()))
        row[:3] = np.floor(days[-1]), float(np.median(np.diff(days))) if len(days) > 1 else 1.0, values[-1]
        if len(values) < LEAST_VALUES or np.ptp(values) <= 1e-9 * np.abs(values).max():
            return row  # too little to fit: the last value stays
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
        at = 4
        for name, turns in self._n_harmonics.items():
            given = waves.get(name, [])
            row[at : at + len(given)] = given
            at += 2 * turns
        return row

    def _build_model(self, days: np.ndarray, values: np.ndarray) -> Any:
        import pandas as pd
        from prophet import Prophet as Library

        for name in ("cmdstanpy", "prophet"):
            # A line for each fit; their levels are set again by later imports
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
