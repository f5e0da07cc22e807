"""The season of the series, found by their autocorrelation."""

import numpy as np

from tasks.core.calendar import parse_open_days

SEASONS = {
    "1s": (60,),
    "1m": (60, 1440),
    "5m": (288, 12),
    "10m": (144,),
    "15m": (96,),
    "20m": (72,),
    "30m": (48, 336),
    "1h": (24, 168),
    "2h": (12, 84),
    "3h": (8, 56),
    "4h": (6, 42),
    "6h": (4, 28),
    "8h": (3, 21),
    "12h": (2, 14),
    "1d": (7,),
    "1w": (52,),
    "1mo": (12,),
    "1q": (4,),
}
MIN_ACF = 0.2  # below it the season explains less than a twenty-fifth of the variance
MANY_SEASONS = 100  # a weaker season over so many cannot be chance
MIN_ACF_OF_MANY = 0.1
MIN_GAIN_OF_LONGER = 0.15  # a longer season needs more history, so it must be clearly stronger


MULTIPLES = 6  # what resembles itself at one lag alone does so by chance
# the autocorrelation of n steps of noise has a standard deviation of 1 / sqrt(n); one of 400 lags
# is more than 4.5 of them in 1 of 700 files
CHANCE_SD = 4.5


def find_season(
    arrays: list[np.ndarray], every: str | None, calendar: str
) -> tuple[int, int | None, float, str]:
    """Season, a second one, the autocorrelation and the reason; the season is 1 if there is none.

    every: only seasons that are usual for this step are tried, in order, and a later one must be
    clearly stronger; None tries every lag.
    """
    n_open = len(parse_open_days(calendar)) or 5
    lags = (n_open,) if calendar != "continuous" else SEASONS.get(every, ()) if every else _find_peaks(arrays)
    lags = tuple(m for m in lags if sum(len(a) >= 4 * m for a in arrays) * 2 >= len(arrays))
    if not lags:
        return 1, None, 0.0, "no season fits a step like this, or the history is shorter than four of them"
    acf = {m: float(np.median([compute_seasonal_acf(a, m) for a in arrays])) for m in lags}
    values = ", ".join(f"{r:.2f} at {m}" for m, r in acf.items())
    best = lags[0]
    for m in lags[1:]:
        if acf[m] > acf[best] + MIN_GAIN_OF_LONGER:
            best = m
    min_acf = MIN_ACF if max(len(a) for a in arrays) < MANY_SEASONS * best else MIN_ACF_OF_MANY
    if acf[best] < min_acf:
        reason = f"none: autocorrelation after the trend is removed is {values}, below {min_acf}"
        return 1, None, acf[best], reason
    second = next((m for m in lags if m > best and acf[m] >= min_acf), None)
    return best, second, acf[best], f"autocorrelation after the trend is removed: {values}"


def compute_seasonal_acf(values: np.ndarray, m: int) -> float:
    """Autocorrelation at lag *m* of the values less their centred moving mean over *m* steps.

    NaN steps are left out; 0 where it is undefined.
    """
    detrended = values - _compute_moving_mean(values, m)
    a, b = detrended[m:], detrended[:-m]
    is_known = np.isfinite(a) & np.isfinite(b)
    if is_known.sum() < 2 * m or is_known.sum() < 10:
        return 0.0
    a, b = a[is_known] - a[is_known].mean(), b[is_known] - b[is_known].mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def _compute_moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean of the known values; NaN where less than half of the window is known."""
    is_known = np.isfinite(values)
    kernel = np.ones(window + 1 - window % 2)
    if window % 2 == 0:
        # an even season has no middle step: half of each end makes the weights sum to the season
        kernel[[0, -1]] = 0.5
    total = _compute_convolution(np.where(is_known, values, 0.0), kernel)
    count = _compute_convolution(is_known.astype(float), kernel)
    return np.where(count >= window / 2, total / np.maximum(count, 1e-9), np.nan)


def _compute_convolution(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    size = len(values) + len(kernel) - 1
    product = np.fft.irfft(np.fft.rfft(values, size) * np.fft.rfft(kernel, size), size)
    start = (len(kernel) - 1) // 2
    return product[start : start + len(values)]


def _find_peaks(arrays: list[np.ndarray]) -> tuple[int, ...]:
    """Lags at which the series resemble themselves, at the multiples too, more than by chance.

    They are the shortest peak within a fifth of the highest, and a higher one at a multiple of it.
    """
    max_lag = min(400, min(len(a) for a in arrays) // 4)
    if max_lag < 4:
        return ()
    reach = MULTIPLES * (max_lag + 1)
    acfs = [_compute_whitened_acf(a, min(reach, len(a) // 2)) for a in arrays]
    n_pairs = sum(int(np.isfinite(a).sum()) for a in arrays)
    score = {}  # in units of what chance explains
    for m in range(2, max_lag + 2):
        multiples = [acf[m::m][:MULTIPLES] for acf in acfs]
        by_chance = CHANCE_SD / np.sqrt(n_pairs * np.mean([len(values) for values in multiples]))
        score[m] = float(np.median([values.mean() for values in multiples])) / by_chance
    peaks = [
        m
        for m in range(2, max_lag + 1)
        if score[m] > max(1.0, score.get(m - 1, 0.0)) and score[m] >= score[m + 1]
    ]
    high = [m for m in peaks if score[m] >= 0.8 * max(score[p] for p in peaks)]
    longer = [m for m in high if m > high[0] and m % high[0] == 0 and score[m] > score[high[0]]]
    return (*high[:1], *sorted(longer, key=lambda m: -score[m])[:1])


def _compute_whitened_acf(values: np.ndarray, max_lag: int) -> np.ndarray:
    """Autocorrelation at the lags 0 to *max_lag* of what each step adds to a share of the last one.

    The share is the autocorrelation at lag 1: a walk, which resembles itself at any lag, becomes
    noise, and a season stays. Unknown steps are 0.
    """
    centred = np.where(np.isfinite(values), values - np.nanmean(values), 0.0)
    power = float(centred @ centred)
    share = np.clip(centred[1:] @ centred[:-1] / power, 0.0, 1.0) if power > 0 else 0.0
    steps = values[1:] - share * values[:-1]
    steps = np.where(np.isfinite(steps), steps - np.nanmean(steps), 0.0)
    size = 2 * len(steps)
    acf = np.fft.irfft(np.abs(np.fft.rfft(steps, size)) ** 2, size)[: max_lag + 1]
    return acf / acf[0] if acf[0] > 0 else np.zeros(max_lag + 1)
