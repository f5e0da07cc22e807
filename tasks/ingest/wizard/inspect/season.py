"""The season of the series, by their autocorrelation."""

import numpy as np

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
LEAST_ACF = 0.2  # below it the season explains less than a twenty-fifth of the variance
MANY_SEASONS = 100  # over so many a weaker season cannot be chance
LEAST_ACF_OF_MANY = 0.1
# A longer season reads further back and needs more history, so it has to be clearly stronger
LONGER_MUST_GAIN = 0.15


def find_season(
    arrays: list[np.ndarray], every: str | None, calendar: str
) -> tuple[int, int | None, float, str]:
    """Season, a second one besides it, the autocorrelation at it and why; (1, None, ...) for none.

    With time, only seasons that the step suggests are tried, in order; a later one must be clearly
    stronger. Without, every lag is tried.
    """
    tried = (5,) if calendar != "continuous" else SEASONS.get(every, ()) if every else _find_peaks(arrays)
    tried = tuple(m for m in tried if sum(len(a) >= 4 * m for a in arrays) * 2 >= len(arrays))
    if not tried:
        return 1, None, 0.0, "no season fits a step like this, or the history is shorter than four of them"
    acf = {m: float(np.median([compute_seasonal_acf(a, m) for a in arrays])) for m in tried}
    said = ", ".join(f"{r:.2f} at {m}" for m, r in acf.items())
    best = tried[0]
    for m in tried[1:]:
        if acf[m] > acf[best] + LONGER_MUST_GAIN:
            best = m
    least = LEAST_ACF if max(len(a) for a in arrays) < MANY_SEASONS * best else LEAST_ACF_OF_MANY
    if acf[best] < least:
        return (
            1,
            None,
            acf[best],
            f"none: autocorrelation after the trend is taken away is {said}, below {least}",
        )
    second = next((m for m in tried if m > best and acf[m] >= least), None)
    return best, second, acf[best], f"autocorrelation after the trend is taken away: {said}"


def compute_seasonal_acf(values: np.ndarray, m: int) -> float:
    """Autocorrelation at lag *m* of the values less their centred moving mean over *m* steps;
    NaN steps are left out; 0 where undefined.
    """
    smooth = _compute_moving_mean(values, m)
    rest = values - smooth
    a, b = rest[m:], rest[:-m]
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 2 * m or both.sum() < 10:
        return 0.0
    a, b = a[both] - a[both].mean(), b[both] - b[both].mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def _compute_moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    known = np.isfinite(values)
    kernel = np.ones(window + 1 - window % 2)
    if window % 2 == 0:
        # An even season has no middle step: half of each end makes the weights sum to the season
        kernel[[0, -1]] = 0.5
    total = _compute_convolution(np.where(known, values, 0.0), kernel)
    count = _compute_convolution(known.astype(float), kernel)
    return np.where(count >= window / 2, total / np.maximum(count, 1e-9), np.nan)


def _compute_convolution(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    size = len(values) + len(kernel) - 1
    product = np.fft.irfft(np.fft.rfft(values, size) * np.fft.rfft(kernel, size), size)
    start = (len(kernel) - 1) // 2
    return product[start : start + len(values)]


def _find_peaks(arrays: list[np.ndarray]) -> tuple[int, ...]:
    """Lags at which the first differences agree most with themselves: the shortest peak within a
    fifth of the highest, and a higher one that is a multiple of it.
    """
    most = min(400, min(len(a) for a in arrays) // 4)
    if most < 4:
        return ()
    mean = np.median([_compute_acf_of_differences(a, most + 1) for a in arrays], axis=0)
    peaks = [
        m
        for m in range(2, most + 1)
        if mean[m] > mean[m - 1] and mean[m] >= mean[m + 1] and mean[m] > LEAST_ACF
    ]
    high = [m for m in peaks if mean[m] >= 0.8 * max(mean[p] for p in peaks)]
    longer = [m for m in high if m > high[0] and m % high[0] == 0 and mean[m] > mean[high[0]]]
    return (*high[:1], *sorted(longer, key=lambda m: -mean[m])[:1])


def _compute_acf_of_differences(values: np.ndarray, most: int) -> np.ndarray:
    steps = np.diff(values)
    steps = np.where(np.isfinite(steps), steps - np.nanmean(steps), 0.0)
    size = 2 * len(steps)
    power = np.abs(np.fft.rfft(steps, size)) ** 2
    acf = np.fft.irfft(power, size)[: most + 1]
    return acf / acf[0] if acf[0] > 0 else np.zeros(most + 1)
