"""Local models against the libraries that estimate them: the same forecasts, from a sum of the
last values."""

import warnings

import numpy as np
import pandas as pd
import pytest
from arch import arch_model
from prophet import Prophet
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.forecasting.theta import ThetaModel
from statsmodels.tsa.statespace.sarimax import SARIMAX

from tasks.core.errors import ForecasterError
from tasks.core.schema import SERIES_KEY, FeatureColumn, FeatureSchema, encode_series_id
from tasks.forecasters import build_forecaster

SEASON, STEPS = 4, 6
pytestmark = pytest.mark.filterwarnings("ignore")  # the oracles warn as they like


def series_of(n, seed=0):
    rng, t = np.random.default_rng(seed), np.arange(n)
    return (
        10 + np.cumsum(rng.normal(size=n) * 0.1) + np.sin(2 * np.pi * t / SEASON) + 0.3 * rng.normal(size=n)
    )


def schema_of(n_lags, names=(), season=SEASON):
    levels = ["z_last", *(f"z_lag_{k}" for k in range(1, n_lags + 1))]
    columns = [FeatureColumn(name=n, role="level", lookback_steps=0) for n in levels]
    columns += [FeatureColumn(name=n, role="free", lookback_steps=0) for n in (*names, *SERIES_KEY)]
    return FeatureSchema(columns=tuple(columns), last="z_last", horizon_steps=STEPS, season_steps=season)


def pairs_of(y, n_lags, name="a", extra=()):
    """Training pairs of all origins of *y* whose lags are there, NaN where a target lies beyond
    its end, and the row at the end."""
    at = np.arange(n_lags, len(y))
    lags = [y[at - k] for k in range(n_lags + 1)]
    x = np.column_stack(
        [
            *lags,
            *(column[at] for column in extra),
            *(np.full(len(at), part) for part in encode_series_id(name)),
        ]
    ).astype(np.float32)
    padded = np.append(y, np.full(STEPS, np.nan))
    z = np.column_stack([padded[at + s] for s in range(1, STEPS + 1)]).astype(np.float32)
    return x[:-1], z[:-1], x[-1:]


@pytest.mark.parametrize(
    "params",
    [
        {"trend": "none", "seasonal": "none"},
        {"trend": "damped", "seasonal": "none"},
        {"trend": "none", "seasonal": "add"},
    ],
    ids=str,
)
def test_ets_forecasts_as_statsmodels_does(params):
    y = series_of(500)
    x, z, now = pairs_of(y, 400)
    ours = (
        build_forecaster("ets", schema_of(400), 1, {**params, "values_steps": 401}).fit(x, z).predict(now)[0]
    )
    seasonal = {"seasonal": "add", "seasonal_periods": SEASON} if params["seasonal"] == "add" else {}
    trend = {"trend": "add", "damped_trend": True} if params["trend"] == "damped" else {}
    theirs = ETSModel(y[400:], **trend, **seasonal).fit(disp=False)
    np.testing.assert_allclose(ours, theirs.forecast(STEPS), atol=0.25 * np.std(theirs.resid))


def test_theta_forecasts_as_statsmodels_does():
    y = series_of(600)
    x, z, now = pairs_of(y, 300)
    ours = build_forecaster("theta", schema_of(300), 1, {}).fit(x, z).predict(now)[0]
    theirs = ThetaModel(y[300:], period=SEASON, method="additive", deseasonalize=True).fit().forecast(STEPS)
    np.testing.assert_allclose(ours, theirs, atol=0.02)


@pytest.mark.parametrize(
    ("order", "seasonal"), [((2, 0, 1), (0, 0, 0)), ((1, 1, 1), (0, 0, 0)), ((1, 0, 0), (1, 1, 0))]
)
def test_arima_forecasts_as_statsmodels_does(order, seasonal):
    y = series_of(500)
    x, z, now = pairs_of(y, 150)
    ours = (
        build_forecaster("arima", schema_of(150), 1, {"order": order, "seasonal_order": seasonal})
        .fit(x, z)
        .predict(now)[0]
    )
    known = y[150:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = SARIMAX(
            known - known.mean(),
            order=order,
            seasonal_order=(*seasonal, SEASON if any(seasonal) else 0),
            simple_differencing=True,
        ).fit(disp=False)
        model = SARIMAX(
            known - known.mean(), order=order, seasonal_order=(*seasonal, SEASON if any(seasonal) else 0)
        )
        expected = model.smooth(theirs.params).forecast(STEPS) + known.mean()
    np.testing.assert_allclose(ours, expected, atol=0.02)


def test_auto_arima_takes_the_season_where_it_is_strong():
    y = series_of(400) + 3 * np.sin(2 * np.pi * np.arange(400) / SEASON)
    x, z, now = pairs_of(y, 60)
    auto, plain = (
        build_forecaster("arima", schema_of(60), 1, {"seasonal_order": s}).fit(x, z).predict(now)[0]
        for s in ("auto", "none")
    )
    truth = 10 + np.sin(2 * np.pi * (400 + np.arange(STEPS)) / SEASON) * 4
    assert (
        np.abs(np.diff(auto) - np.diff(truth)).mean()
        < 0.5 * np.abs(np.diff(plain) - np.diff(truth)).mean() + 0.2
    )


def test_garch_expects_what_arch_expects():
    rng = np.random.default_rng(1)
    r, sd = np.zeros(1500), np.full(1500, 0.01)
    for t in range(1, 1500):
        sd[t] = np.sqrt(2e-6 + (0.05 + 0.1 * (r[t - 1] < 0)) * r[t - 1] ** 2 + 0.85 * sd[t - 1] ** 2)
        r[t] = sd[t] * rng.standard_normal()
    price, n_lags = 100 * np.exp(np.cumsum(r)), 80
    names = ["close_value", *(f"close_lag_{k}" for k in range(1, n_lags + 1))]
    y = np.log(sd)
    padded = np.concatenate([np.full(n_lags, np.nan), price])
    extra = [padded[n_lags - k : len(padded) - k] for k in range(n_lags + 1)]
    x, z, _ = pairs_of(y, 0, extra=extra)
    garch = build_forecaster("garch", schema_of(0, names), 1, {}).fit(x, z)
    found = arch_model(r[1:-1] * 100, mean="Zero", o=1, dist="t").fit(disp="off", show_warning=False)
    expected = np.log(
        np.sqrt(found.forecast(horizon=STEPS, start=500, reindex=False).variance.to_numpy()) / 100
    )
    ours = garch.predict(x)[-len(expected) :]
    assert np.corrcoef(ours[:, 0], expected[:, 0])[0, 1] > 0.999
    assert np.corrcoef(ours[:-1, 0], y[len(y) - len(ours) : -1])[0, 1] > 0.97


def test_prophet_forecasts_as_its_library_does():
    n, step = 24 * 30, 1 / 24
    days = 18_000 + step * np.arange(n)
    y = (
        50
        + 0.05 * (days - 18_000)
        + 3 * np.sin(2 * np.pi * days)
        + np.cos(2 * np.pi * days / 7)
        + np.random.default_rng(4).normal(size=n) * 0.2
    )
    x, z, now = pairs_of(y, 0, extra=[np.floor(days), days - np.floor(days)])
    rows = np.concatenate([x, now])
    fit = build_forecaster("prophet", schema_of(0, ["time_days", "time_day_frac"]), 1, {}).fit(
        rows, np.concatenate([z, z[-1:]])
    )
    at = pd.to_datetime(
        np.round(np.append(days, days[-1] + step * np.arange(1, STEPS + 1)) * 86400), unit="s"
    )
    library = Prophet(uncertainty_samples=0).fit(
        pd.DataFrame({"ds": at[:n], "y": y.astype(np.float32)}), seed=1
    )
    expected = library.predict(pd.DataFrame({"ds": at[n:]}))["yhat"]
    np.testing.assert_allclose(fit.predict(now)[0], expected, atol=0.01)


def test_each_series_is_forecast_by_its_own_numbers():
    slow, fast = 5 + np.cumsum(np.random.default_rng(2).normal(size=300)), series_of(300, 3)
    parts = [pairs_of(y, 20, name) for y, name in ((slow, "slow"), (fast, "fast"))]
    both = build_forecaster("ets", schema_of(20), 1, {}).fit(
        *(np.concatenate([p[k] for p in parts]) for k in range(2))
    )
    for x, z, now in parts:
        np.testing.assert_array_equal(
            both.predict(now), build_forecaster("ets", schema_of(20), 1, {}).fit(x, z).predict(now)
        )


def test_an_order_that_looks_back_further_than_the_lags_is_refused_with_the_lags_to_declare():
    with pytest.raises(ForecasterError, match=r"Arima needs the last 9 values.*z_lag_1 to z_lag_8"):
        build_forecaster("arima", schema_of(5), 1, {"order": (1, 0, 0), "seasonal_order": (1, 1, 0)})
    with pytest.raises(ForecasterError, match="season_steps` is 1"):
        build_forecaster("arima", schema_of(5, season=1), 1, {"seasonal_order": (1, 0, 0)})
    with pytest.raises(ForecasterError, match=r"close_value.*kind: value, column: close"):
        build_forecaster("garch", schema_of(5), 1, {})
