"""The grid of the series: length of a step, calendar, gaps, season."""

import re
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl

from tasks.core.calendar import list_exchange_sessions, parse_step_length
from tasks.core.errors import SourceError
from tasks.core.frames import UTC as UTC_DTYPE
from tasks.ingest.wizard.inspect.figures import convert_to_float, convert_to_int

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_MONTHS = {1: ((28, 31), "1mo"), 3: ((89, 92), "1q"), 12: ((365, 366), "1y")}
_SEASONS = {
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
# Half of what validate puts into quarantine before it stops; below, a stray row is better kept
# apart than moved
SNAP_ABOVE_FRAC = 0.005
LEAST_ACF = 0.2  # below it the season explains less than a twenty-fifth of the variance
MANY_SEASONS = 100  # over so many a weaker season cannot be chance
LEAST_ACF_OF_MANY = 0.1
# A longer season reads further back and needs more history, so it has to be clearly stronger
LONGER_MUST_GAIN = 0.15
_FRIDAY = 5


@dataclass(frozen=True)
class DetectedGrid:
    """The steps.

    every, calendar: as in `about`. n_steps: from the first step of any series to the last.
    off_grid: rows that are no step. n_missing, longest_gap: steps without a row. season_steps: 1
    for none.
    """

    every: str
    calendar: str
    n_steps: int
    n_series: int
    off_grid: int
    n_missing: int
    longest_gap: int
    season_steps: int
    second_season_steps: int | None
    acf: float
    reasons: dict[str, str]


def find_every(rows: pl.DataFrame) -> tuple[str, str]:
    """Length of a step and why: the commonest distance between successive times of a series.

    Raises SourceError when they have none.
    """
    steps = _compute_distances(rows)
    if not len(steps):
        raise SourceError(
            "No series has two different times, so the length of a step is unknown. Give a longer history, or"
            " the right `--series`."
        )
    modal: timedelta = steps.value_counts(sort=True).sort("count", "step", descending=[True, False]).row(0)[0]
    share = _compute_share_between(steps, modal, modal)
    if share < 0.5:
        return _find_nearest_step(steps)
    for (least, most), every in _MONTHS.values():
        if timedelta(days=least) <= modal <= timedelta(days=most):
            return (
                every,
                (
                    f"{_compute_share_between(steps, timedelta(days=least), timedelta(days=most)):.1%} of the"
                    f" distances are {least} to {most} days"
                ),
            )
    seconds = modal.total_seconds()
    if seconds < 1:
        raise SourceError(
            f"Steps of {modal} are shorter than a second, which is events and not steps. Aggregate them"
            " first, for example to 1 minute."
        )
    every = (
        "1w"
        if modal == timedelta(days=7)
        else next(f"{seconds / n:.0f}{unit}" for unit, n in _SECONDS.items() if seconds % n == 0)
    )
    return every, f"{share:.1%} of the distances between rows"


def list_unlike_steps(rows: pl.DataFrame) -> list[str]:
    """The series' own usual steps when one is more than a third longer than another; empty when
    they agree.
    """
    lengths = (
        rows.group_by("series_id")
        .agg(pl.col("event_time").diff().mode().min().alias("step"))
        .drop_nulls()["step"]
        .unique()
        .sort()
    )
    return [str(step) for step in lengths] if len(lengths) > 1 and lengths[-1] > lengths[0] * 4 / 3 else []


def _find_nearest_step(steps: pl.Series) -> tuple[str, str]:
    """The usual length of step that the median distance comes closest to; times are then moved
    back to the start of their step.
    """
    median = convert_to_float(steps.dt.total_seconds(fractional=True).median())
    every = min(_SEASONS, key=lambda e: abs(np.log(max(median, 1e-3) / parse_step_length(e).total_seconds())))
    return every, f"times are uneven; their median distance of {median:.3g} s comes closest"


def _compute_distances(rows: pl.DataFrame) -> pl.Series:
    same = pl.col("series_id") == pl.col("series_id").shift()
    return rows.select(pl.when(same).then(pl.col("event_time").diff()).alias("step")).drop_nulls()["step"]


def _compute_share_between(steps: pl.Series, least: timedelta, most: timedelta) -> float:
    return convert_to_float(steps.is_between(least, most).mean())


def find_snap_reason(rows: pl.DataFrame, every: str) -> str | None:
    """Why times have to be moved back to the start of their step, or None when they are steps
    already.
    """
    # No other month may end earlier
    if _parse_every(every)[1] in ("mo", "q", "y") and (rows["event_time"].dt.day() > 28).any():
        return "months end on different days"
    off = float(compute_positions(rows, every)[1].mean())
    if off > SNAP_ABOVE_FRAC:
        return f"{off:.0%} of the rows lie beside the steps of {every} that their series began"
    if (phases := _count_phases(rows, every)) > 1:
        return f"the series begin their steps at {phases} different moments"
    if (
        every == "1d"
        and (rows["event_time"].dt.weekday() <= _FRIDAY).all()
        and (rows["event_time"].dt.hour() > 0).any()
    ):
        return "a session is a date, not an hour"
    return None


def align_to_step(rows: pl.DataFrame, every: str) -> pl.DataFrame:
    """Each time at the start of its step; of rows that meet in a step the first stays, as in
    ingest.
    """
    moved = rows.with_columns(pl.col("event_time").dt.truncate(every))
    return moved.unique(["series_id", "event_time"], keep="first", maintain_order=True)


def find_calendar(rows: pl.DataFrame, every: str) -> tuple[str, str]:
    """Calendar and why.

    Only daily rows that never fall on a weekend can be anything but continuous.
    """
    if every != "1d":
        return "continuous", "every step exists"
    days = rows["event_time"].unique().sort()
    # Three weeks without a weekend are a sign
    if len(days) < 15 or (days.dt.weekday() > _FRIDAY).any():
        return "continuous", "rows on weekends, too"
    sessions = list_exchange_sessions("XNYS", days[0], days[-1] + timedelta(days=1)).cast(UTC_DTYPE)
    weekdays = pl.datetime_range(days[0], days[-1], "1d", time_zone="UTC", time_unit="us", eager=True)
    weekdays = weekdays.filter(weekdays.dt.weekday() <= _FRIDAY)
    on_session, held = (
        convert_to_float(days.is_in(sessions.implode()).mean()),
        convert_to_float(sessions.is_in(days.implode()).mean()),
    )
    # A few days may be lost
    if on_session == 1.0 and held > len(days) / len(weekdays) and held > 0.97:
        return (
            "exchange:XNYS",
            f"no row off a session of the New York exchange, {held:.1%} of its sessions are there",
        )
    return "weekdays", "no row on a weekend"


def compute_positions(rows: pl.DataFrame, every: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Step number of each row, and whether it lies off the steps that its series' first row starts.

    Integer time counts itself.
    """
    if every is None:
        return rows["event_time"].to_numpy(), np.zeros(rows.height, dtype=bool)
    count, unit = _parse_every(every)
    first = pl.col("event_time").min().over("series_id")
    if unit in ("mo", "q", "y"):
        months = count * {"mo": 1, "q": 3, "y": 12}[unit]
        month = (pl.col("event_time").dt.year() * 12 + pl.col("event_time").dt.month() - 1).cast(pl.Int64)
        read = rows.select(
            step=month // months,
            off=pl.col("event_time") != first.dt.offset_by(pl.format("{}mo", month - _build_month(first))),
        )
    else:
        length = int(parse_step_length(every).total_seconds() * 1e6)
        distance = pl.col("event_time").dt.epoch("us") - first.dt.epoch("us")
        start = (first.dt.epoch("us") - rows["event_time"].dt.epoch("us").min()) // length
        read = rows.select(step=start + distance // length, off=distance % length != 0)
    return read["step"].to_numpy(), read["off"].to_numpy()


def _build_month(when: pl.Expr) -> pl.Expr:
    return (when.dt.year() * 12 + when.dt.month() - 1).cast(pl.Int64)


def _parse_every(every: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+)([a-z]+)", every)
    if not match:
        raise SourceError(
            f"`--every {every}`: give a number and a unit, for example `1d`, `1h`, `5m`, `1mo`."
        )
    return int(match[1]), match[2]


def find_grid(
    rows: pl.DataFrame, z: str, integer_time: bool, every: str | None = None, season: int | None = None
) -> DetectedGrid:
    """All of it. rows: `series_id`, `event_time`, and the column *z*, in whose space the season
    is sought.
    """
    reasons: dict[str, str] = {}
    if integer_time:
        step, reasons["every"] = "1h", "no time in the file; the hour only names a step"
        calendar, reasons["calendar"] = "continuous", "rows are steps"
    else:
        step, reasons["every"] = (every, "as asked") if every else find_every(rows)
        _parse_every(step)
        calendar, reasons["calendar"] = find_calendar(rows, step)
    place, off = compute_positions(rows, None if integer_time else step)
    n_missing, longest = _count_gaps(rows, place, off, calendar)
    arrays = build_dense_arrays(rows, z, place, off)
    found, second, acf, reasons["season_steps"] = find_season(
        arrays, None if integer_time else step, calendar
    )
    if season is not None:
        found, second, reasons["season_steps"] = season, None, "as asked"
    n_steps = (
        int(place.max() - place.min()) + 1 if calendar == "continuous" else rows["event_time"].n_unique()
    )
    return DetectedGrid(
        step,
        calendar,
        n_steps,
        rows["series_id"].n_unique(),
        int(off.sum()),
        n_missing,
        longest,
        found,
        second,
        acf,
        reasons,
    )


def _count_phases(rows: pl.DataFrame, every: str) -> int:
    """At how many offsets within a step the series begin."""
    if _parse_every(every)[1] in ("mo", "q", "y"):
        return int(
            rows.group_by("series_id")
            .agg(pl.col("event_time").min())["event_time"]
            .dt.strftime("%d %T")
            .n_unique()
        )
    length = int(parse_step_length(every).total_seconds() * 1e6)
    starts = rows.group_by("series_id").agg(pl.col("event_time").min())["event_time"].dt.epoch("us")
    return int((starts % length).n_unique())


def _count_gaps(rows: pl.DataFrame, place: np.ndarray, off: np.ndarray, calendar: str) -> tuple[int, int]:
    """Missing steps and the longest run of them, within each series' span; on weekdays and
    exchanges a weekend is no gap.
    """
    if calendar != "continuous":
        days = rows["event_time"].unique().sort()
        spans = rows.group_by("series_id").agg(
            first=pl.col("event_time").min(), last=pl.col("event_time").max(), n=pl.len()
        )
        return (
            int(
                sum(
                    days.is_between(f, e).sum() - n
                    for f, e, n in spans.select("first", "last", "n").iter_rows()
                )
            ),
            0,
        )
    steps = rows.select("series_id").with_columns(step=pl.Series(place)).filter(~pl.Series(off))
    missing = steps.select(
        pl.when(pl.col("series_id") == pl.col("series_id").shift()).then(pl.col("step").diff() - 1).alias("n")
    ).drop_nulls()["n"]
    return convert_to_int(missing.clip(0).sum()), max(0, convert_to_int(missing.max()))


def build_dense_arrays(
    rows: pl.DataFrame,
    column: str,
    place: np.ndarray,
    off: np.ndarray,
    most_series: int = 40,
    most_steps: int = 20_000,
) -> list[np.ndarray]:
    """The newest *most_steps* steps of up to *most_series* series, each an array with NaN where
    a step is missing.
    """
    laid = (
        rows.select("series_id", pl.col(column).cast(pl.Float64).fill_null(float("nan")))
        .with_columns(step=pl.Series(place))
        .filter(~pl.Series(off))
    )
    ids = laid["series_id"].unique().sort()
    chosen = ids.gather(np.unique(np.linspace(0, len(ids) - 1, min(len(ids), most_series)).astype(int)))
    out = []
    for series in chosen:
        part = laid.filter(pl.col("series_id") == series)
        steps = part["step"].to_numpy() - convert_to_int(part["step"].max()) + most_steps - 1
        values = np.full(most_steps, np.nan)
        values[steps[steps >= 0]] = part[column].to_numpy()[steps >= 0]
        out.append(values[max(0, int(steps.min())) :])
    return out


def find_season(
    arrays: list[np.ndarray], every: str | None, calendar: str
) -> tuple[int, int | None, float, str]:
    """Season, a second one besides it, the autocorrelation at it and why; (1, None, ...) for none.

    With time, only seasons that the step suggests are tried, in order; a later one must be clearly
    stronger. Without, every lag is tried.
    """
    tried = (5,) if calendar != "continuous" else _SEASONS.get(every, ()) if every else _find_peaks(arrays)
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
