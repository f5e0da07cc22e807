"""Linear models of one series in innovations form, and their forecasts as weights of values.

x_t = F x_{t-1} + g e_t, y_t = w . x_{t-1} + e_t. Exponential smoothing, Theta and ARIMA have this
form, with parameters that a library estimates. The state before the window is unknown; the one with
the least squared errors in the window is used, which is linear in the values. So a forecast is a
fixed sum of the last values, equal in numpy and in a graph, and each new value updates its state.
Source of the form: Hyndman, Koehler, Ord & Snyder 2008, Forecasting with Exponential Smoothing,
chapters 3 and 11.
"""

from typing import NamedTuple

import numpy as np

_RCOND = 1e-9  # smaller singular values: directions of the first state that the window cannot identify


class InnovationsModel(NamedTuple):
    """F (m, m), g (m,), w (m,)."""

    transition: np.ndarray
    gain: np.ndarray
    observed: np.ndarray


def compute_forecast_weights(model: InnovationsModel, n_values: int, n_steps: int) -> np.ndarray:
    """Weights (n_values, n_steps) of the last values, newest first, in each step's forecast."""
    discount = model.transition - np.outer(model.gain, model.observed)
    size = len(model.gain)
    seen, gains = np.empty((n_values, size)), np.empty((n_values, size))
    row, column = model.observed, model.gain
    for k in range(n_values):
        seen[k], gains[k] = row, column  # w D^k and D^k g
        row, column = row @ discount, discount @ column
    lag = np.arange(n_values)[:, None] - np.arange(n_values) - 1
    errors = np.eye(n_values) - np.where(lag >= 0, (gains @ model.observed)[np.maximum(lag, 0)], 0.0)
    first = np.linalg.lstsq(seen, errors, rcond=_RCOND)[0]
    state = np.linalg.matrix_power(discount, n_values) @ first + gains[::-1].T
    out = np.empty((n_values, n_steps))
    ahead = model.observed
    for s in range(n_steps):
        out[:, s] = (ahead @ state)[::-1]
        ahead = ahead @ model.transition
    return out


def build_smoothing(
    alpha: float, beta: float | None, phi: float, gamma: float | None, season_steps: int
) -> InnovationsModel:
    """Additive exponential smoothing.

    beta: of the trend, damped by *phi*; None: no trend.
    gamma: of the season of *season_steps*; None: no season.
    Source: Hyndman et al. 2008, section 3.4, ETS(A, A or Ad, A).
    """
    n_trend = 0 if beta is None else 1
    n_season = 0 if gamma is None else season_steps
    size = 1 + n_trend + n_season
    transition, gain, observed = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    transition[0, 0], gain[0], observed[0] = 1.0, alpha, 1.0
    if beta is not None:
        transition[0, 1] = transition[1, 1] = observed[1] = phi
        gain[1] = beta
    if gamma is not None:
        first = 1 + n_trend
        transition[first, -1], gain[first], observed[-1] = 1.0, gamma, 1.0
        transition[np.arange(first + 1, size), np.arange(first, size - 1)] = 1.0
    return InnovationsModel(transition, gain, observed)


def build_arima(ar: np.ndarray, ma: np.ndarray) -> InnovationsModel:
    """y_t = sum ar_i y_{t-i} + e_t + sum ma_j e_{t-j}; *ar* includes the differences.

    Source: Hyndman et al. 2008, section 11.1.
    """
    size = max(len(ar), len(ma), 1)
    ar, ma = np.pad(ar, (0, size - len(ar))), np.pad(ma, (0, size - len(ma)))
    transition = np.eye(size, k=1)
    transition[:, 0] += ar
    return InnovationsModel(transition, ar + ma, np.eye(size)[0])
