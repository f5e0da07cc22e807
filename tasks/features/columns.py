"""From the declared list to columns: name, role, lookback, sources and computation."""

import difflib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tasks.core.about import About
from tasks.core.errors import FeatureInputError
from tasks.core.schema import SERIES_KEY
from tasks.features import indicators
from tasks.features.bars import OHLC
from tasks.features.cross import build_cross_columns
from tasks.features.functions import build_function_column
from tasks.features.holidays import build_holiday_columns
from tasks.features.known_ahead import build_ahead_columns, check_declared
from tasks.features.params import FeatureParams
from tasks.features.rolling import Past
from tasks.features.seasons import build_calendar_columns, build_fourier_columns, build_time_columns
from tasks.features.sources import (
    OHLC_VOLATILITY,
    Column,
    Role,
    build_key_source,
    build_received_source,
    check_number,
)
from tasks.features.specs import (
    EWM_CUT_SPANS,
    Ahead,
    BarFeature,
    Bollinger,
    CalendarFeature,
    Change,
    Cross,
    Ewm,
    FeatureSpec,
    Fourier,
    Function,
    GarmanKlass,
    Holiday,
    Lag,
    Macd,
    Quantile,
    Return,
    Rsi,
    SeriesKey,
    Static,
    Time,
    Value,
    Window,
)

LAST = "z_last"


def build_declared_columns(about: About, params: FeatureParams) -> list[Column]:
    """All columns in the table's order: `z_last`, the seasonal lags, then the list.

    A repeated name is the same column and is listed once.
    """
    within = params.last_within_steps
    always = [
        _build_last("z", LAST, "level", within),
        *(_build_lag("z", "level", k) for k in list_seasonal_lags(about) if k),
    ]
    columns = {column.name: column for spec in params.list for column in _build_columns(spec, about, within)}
    return list({column.name: column for column in always}.values()) + [
        c for c in columns.values() if c.name not in {a.name for a in always}
    ]


def list_seasonal_lags(about: About) -> list[int]:
    """For each step 1..horizon the lag with the same season phase; empty without a season."""
    season = about.season_steps
    return [] if season == 1 else [-s % season for s in range(1, about.horizon_steps + 1)]


def list_seasonal_names(about: About) -> tuple[str, ...]:
    """The column of each of `list_seasonal_lags`; lag 0 is the last known value."""
    return tuple(f"z_lag_{k}" if k else LAST for k in list_seasonal_lags(about))


def check_sources(columns: Iterable[Column], known: Iterable[str], about: About) -> None:
    """Raises FeatureInputError, with close matches, for a feature whose column is not *known*."""
    names = sorted(known)
    for column in columns:
        for needed in (needed for source in column.sources for needed in source.needs):
            check_number(needed, f"`features.list`: {column.name!r}", about)
            if needed not in names:
                close = difflib.get_close_matches(needed, names, n=3)
                raise FeatureInputError(
                    f"`features.list`: {column.name!r} reads column {needed!r}, which is missing; there are"
                    f" {names}."
                    + (
                        f" Did you mean {' or '.join(map(repr, close))}?"
                        if close
                        else " Correct it in params.yaml."
                    )
                )


# one case per kind
def _build_columns(spec: FeatureSpec, about: About, within: int) -> Iterator[Column]:  # noqa: C901, PLR0912
    match spec:
        case Lag():
            yield from (_build_lag(spec.column, _decide_role(spec.column, about), k) for k in spec.steps)
        case Window():
            yield from (_build_window(spec, w, _decide_role(spec.column, about)) for w in spec.window_steps)
        case Quantile():
            yield from (_build_quantile(spec, w, _decide_role(spec.column, about)) for w in spec.window_steps)
        case Ewm():
            yield from (
                _build_ewm(spec.column, _decide_role(spec.column, about), span) for span in spec.span_steps
            )
        case Return():
            yield from (_build_return(spec, k) for k in spec.steps)
        case Change():
            yield from (_build_change(spec, k, _decide_role(spec.column, about)) for k in spec.steps)
        case Rsi():
            yield from (_build_rsi(spec.column, w) for w in spec.window_steps)
        case Macd():
            yield from _build_macd(spec, _decide_role(spec.column, about))
        case Bollinger():
            yield from (column for w in spec.window_steps for column in _build_bollinger(spec, w))
        case BarFeature():
            yield from (column for w in spec.window_steps for column in _build_bars(spec.kind, w))
        case CalendarFeature():
            yield from build_calendar_columns(spec.parts)
        case Fourier():
            yield from build_fourier_columns(spec)
        case Time():
            yield from build_time_columns()
        case Holiday():
            yield from build_holiday_columns(spec, about.horizon_steps)
        case GarmanKlass():
            yield Column("ohlc_garman_klass", "free", 0, (OHLC_VOLATILITY,), _get_values)
        case SeriesKey():
            yield from (
                Column(name, "free", 0, (build_key_source(part),), _get_values)
                for part, name in enumerate(SERIES_KEY)
            )
        case Value():
            yield Column(
                f"{spec.column}_value",
                _decide_role(spec.column, about),
                0,
                (build_received_source(spec.column),),
                _get_values,
            )
        case Static():
            check_declared("static", spec.column, "static", about.covariates.static)
            yield _build_last(spec.column, f"{spec.column}_static", "free", within)
        case Ahead():
            yield from build_ahead_columns(spec, about)
        case Cross():
            yield from build_cross_columns(spec, _decide_role(spec.column, about))
        case Function():
            yield build_function_column(spec)


def _decide_role(column: str, about: About) -> Role:
    untouched = about.target.transform == "none" and column in {"y", about.target.column}
    return "level" if column == "z" or untouched else "free"


def _decide_distance_role(role: Role) -> Role:
    return "spread" if role == "level" else "free"


def _get_values(past: Past) -> np.ndarray:
    return past.values


def _build_last(column: str, name: str, role: Role, within: int) -> Column:
    return Column(
        name, role, within, (build_received_source(column),), lambda past: past.get_last_known(within)
    )


def _build_lag(column: str, role: Role, k: int) -> Column:
    return Column(
        f"{column}_lag_{k}",
        role,
        k,
        (build_received_source(column),),
        lambda past: past.get_before(k),
        newest_steps_back=k,
    )


def _build_window(spec: Window, w: int, role: Role) -> Column:
    compute: dict[str, Callable[[Past], np.ndarray]] = {
        "mean": lambda past: past.mean(w),
        "std": lambda past: past.std(w),
        "min": lambda past: past.minimum(w),
        "max": lambda past: past.maximum(w),
        "zscore": lambda past: indicators.zscore(past, w),
        "drawdown": lambda past: indicators.drawdown(past, w),
    }
    roles: dict[str, Role] = {"std": _decide_distance_role(role), "zscore": "free", "drawdown": "free"}
    return Column(
        f"{spec.column}_{spec.kind}_{w}",
        roles.get(spec.kind, role),
        w - 1,
        (build_received_source(spec.column),),
        compute[spec.kind],
    )


def _build_quantile(spec: Quantile, w: int, role: Role) -> Column:
    return Column(
        f"{spec.column}_quantile_{w}_{spec.q:g}",
        role,
        w - 1,
        (build_received_source(spec.column),),
        lambda past: past.quantile(w, spec.q),
    )


def _build_ewm(column: str, role: Role, span: int) -> Column:
    return Column(
        f"{column}_ewm_{span}",
        role,
        EWM_CUT_SPANS * span - 1,
        (build_received_source(column),),
        lambda past: past.ewm(span),
    )


def _build_change(spec: Change, k: int, role: Role) -> Column:
    w = spec.window_steps
    compute: dict[str, Callable[[Past], np.ndarray]] = {
        "change": lambda past: past.change(k, w),
        "level_to_change_ratio": lambda past: past.level_to_change_ratio(k, w),
        "steadiness": lambda past: past.level_to_change_ratio(k, w),  # its name before
    }
    spread: Role = "spread" if role == "level" and spec.kind == "change" else "free"
    return Column(
        f"{spec.column}_{spec.kind}_{k}_{w}",
        spread,
        k + w - 1,
        (build_received_source(spec.column),),
        compute[spec.kind],
    )


def _build_return(spec: Return, k: int) -> Column:
    compute: dict[str, Callable[[Past], np.ndarray]] = {
        "return": lambda past: past.log_return(k),
        "abs_return": lambda past: np.abs(past.log_return(k)),
        "negative_return": lambda past: np.minimum(past.log_return(k), 0.0),
        "roc": lambda past: indicators.rate_of_change(past, k),
    }
    return Column(
        f"{spec.column}_{spec.kind}_{k}", "free", k, (build_received_source(spec.column),), compute[spec.kind]
    )


def _build_rsi(column: str, w: int) -> Column:
    return Column(
        f"{column}_rsi_{w}",
        "free",
        indicators.count_wilder_steps(w),
        (build_received_source(column),),
        lambda past: indicators.rsi(past, w),
    )


def _build_macd(spec: Macd, role: Role) -> Iterator[Column]:
    fast, slow, signal = spec.fast_steps, spec.slow_steps, spec.signal_steps
    name, sources, line = (
        f"{spec.column}_macd_{fast}_{slow}_{signal}",
        (build_received_source(spec.column),),
        EWM_CUT_SPANS * slow - 1,
    )
    both = line + EWM_CUT_SPANS * signal - 1
    yield Column(
        f"{name}_line",
        _decide_distance_role(role),
        line,
        sources,
        lambda past: indicators.macd(past, fast, slow),
    )
    yield Column(
        f"{name}_signal",
        _decide_distance_role(role),
        both,
        sources,
        lambda past: indicators.macd_signal(past, fast, slow, signal),
    )
    yield Column(
        f"{name}_histogram",
        _decide_distance_role(role),
        both,
        sources,
        lambda past: indicators.macd(past, fast, slow) - indicators.macd_signal(past, fast, slow, signal),
    )


def _build_bollinger(spec: Bollinger, w: int) -> Iterator[Column]:
    name, sources = f"{spec.column}_bollinger_{w}_{spec.width:g}", (build_received_source(spec.column),)
    yield Column(
        f"{name}_position", "free", w - 1, sources, lambda past: indicators.band_position(past, w, spec.width)
    )
    yield Column(
        f"{name}_width", "free", w - 1, sources, lambda past: indicators.band_width(past, w, spec.width)
    )


def _build_bars(kind: str, w: int) -> Iterator[Column]:
    open_, high, low, close = map(build_received_source, OHLC)
    range_and_close, name = (high, low, close), f"ohlc_{kind}_{w}"
    match kind:
        case "atr":
            yield Column(
                name,
                "free",
                indicators.count_wilder_steps(w),
                range_and_close,
                lambda h, lo, c: indicators.atr(h, lo, c, w),
            )
        case "atr_frac":
            yield Column(
                name,
                "free",
                indicators.count_wilder_steps(w),
                range_and_close,
                lambda h, lo, c: indicators.atr_frac(h, lo, c, w),
            )
        case "stochastic":
            yield Column(
                f"{name}_k",
                "free",
                w - 1,
                range_and_close,
                lambda h, lo, c: indicators.stochastic(h, lo, c, w),
            )
            yield Column(
                f"{name}_d",
                "free",
                w + 1,
                range_and_close,
                lambda h, lo, c: Past(indicators.stochastic(h, lo, c, w)).mean(3),
            )
        case "obv_change":
            yield Column(
                name,
                "free",
                w,
                (close, build_received_source("volume")),
                lambda c, v: indicators.obv_change(c, v, w),
            )
        case "parkinson":
            yield Column(name, "free", w - 1, (high, low), lambda h, lo: indicators.parkinson(h, lo, w))
        case "rogers_satchell":
            yield Column(
                name,
                "free",
                w - 1,
                (open_, high, low, close),
                lambda o, h, lo, c: indicators.rogers_satchell(o, h, lo, c, w),
            )
