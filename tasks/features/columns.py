"""From the declared list to columns: name, role, lookback, what is read, and the computation."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.core.about import About
from tasks.core.errors import FeatureInputError
from tasks.core.schema import SERIES_KEY, FeatureColumn
from tasks.features.params import (
    EWM_CUT_SPANS,
    Calendar,
    Change,
    Ewm,
    FeatureParams,
    FeatureSpec,
    GarmanKlass,
    Lag,
    Quantile,
    Return,
    SeriesKey,
    Value,
    Window,
)
from tasks.features.rolling import Past

LAST = "z_last"
Role = Literal["level", "spread", "free"]


@dataclass(frozen=True)
class Column:
    """One feature. source: the column it reads, `event_time:<part>` for the calendar, `ohlc` for a Garman-Klass volatility, `series_id:<part>` for its hash."""

    name: str
    role: Role
    lookback_steps: int
    source: str
    compute: Callable[[Past], np.ndarray]

    @property
    def described(self) -> FeatureColumn:
        """Its entry in the schema."""
        return FeatureColumn(name=self.name, role=self.role, lookback_steps=self.lookback_steps)


def declared_columns(about: About, params: FeatureParams) -> list[Column]:
    """All columns in the table's order: `z_last`, the seasonal lags, then the list; a name that comes again is the same column and stays once."""
    within = params.last_within_steps
    always = [Column(LAST, "level", within, "z", lambda past: past.last_known(within)), *(_lag("z", "level", k) for k in seasonal_lags(about) if k)]
    columns = {column.name: column for spec in params.list for column in _columns(spec, about)}
    return list({column.name: column for column in always}.values()) + [c for c in columns.values() if c.name not in {a.name for a in always}]


def seasonal_lags(about: About) -> list[int]:
    """For each step 1..horizon how many steps before the origin the same place in the season lies; empty without a season."""
    season = about.season_steps
    return [] if season == 1 else [-s % season for s in range(1, about.horizon_steps + 1)]


def seasonal_names(about: About) -> tuple[str, ...]:
    """The column for each of `seasonal_lags`; lag 0 is the last known value."""
    return tuple(f"z_lag_{k}" if k else LAST for k in seasonal_lags(about))


def check_sources(columns: Iterable[Column], known: Iterable[str]) -> None:
    """Raise FeatureInputError for a feature whose source is not among *known*, with the columns that come close."""
    names = sorted(known)
    for column in columns:
        if column.source not in names:
            close = difflib.get_close_matches(column.source, names, n=3)
            raise FeatureInputError(
                f"`features.list`: {column.name!r} reads column {column.source!r}, which is not there; there are {names}."
                + (f" Did you mean {' or '.join(map(repr, close))}?" if close else " Correct it in params.yaml.")
            )


def _columns(spec: FeatureSpec, about: About) -> Iterator[Column]:
    match spec:
        case Lag():
            yield from (_lag(spec.column, _role(spec.column, about), k) for k in spec.steps)
        case Window():
            yield from (_window(spec, w, _role(spec.column, about)) for w in spec.window_steps)
        case Quantile():
            yield from (_quantile(spec, w, _role(spec.column, about)) for w in spec.window_steps)
        case Ewm():
            yield from (_ewm(spec.column, _role(spec.column, about), span) for span in spec.span_steps)
        case Return() | Change():
            yield from (_change(spec, k, _role(spec.column, about)) if isinstance(spec, Change) else _return(spec, k) for k in spec.steps)
        case Calendar():
            yield from (Column(f"calendar_{part}", "free", 0, f"event_time:{part}", _value) for part in spec.parts)
        case GarmanKlass():
            yield Column("ohlc_garman_klass", "free", 0, "ohlc", _value)
        case SeriesKey():
            yield from (Column(name, "free", 0, f"series_id:{part}", _value) for part, name in enumerate(SERIES_KEY))
        case Value():
            yield Column(f"{spec.column}_value", _role(spec.column, about), 0, spec.column, _value)


def _role(column: str, about: About) -> Role:
    untouched = about.target.transform == "none" and column in {"y", about.target.column}
    return "level" if column == "z" or untouched else "free"


def _value(past: Past) -> np.ndarray:
    return past.values


def _lag(column: str, role: Role, k: int) -> Column:
    return Column(f"{column}_lag_{k}", role, k, column, lambda past: past.lag(k))


def _window(spec: Window, w: int, role: Role) -> Column:
    compute: dict[str, Callable[[Past], np.ndarray]] = {
        "mean": lambda past: past.mean(w),
        "std": lambda past: past.std(w),
        "min": lambda past: past.least(w),
        "max": lambda past: past.most(w),
    }
    spread: Role = "spread" if role == "level" else "free"
    return Column(f"{spec.column}_{spec.kind}_{w}", spread if spec.kind == "std" else role, w - 1, spec.column, compute[spec.kind])


def _quantile(spec: Quantile, w: int, role: Role) -> Column:
    return Column(f"{spec.column}_quantile_{w}_{spec.q:g}", role, w - 1, spec.column, lambda past: past.quantile(w, spec.q))


def _ewm(column: str, role: Role, span: int) -> Column:
    return Column(f"{column}_ewm_{span}", role, EWM_CUT_SPANS * span - 1, column, lambda past: past.ewm(span))


def _change(spec: Change, k: int, role: Role) -> Column:
    w = spec.window_steps
    compute: dict[str, Callable[[Past], np.ndarray]] = {"change": lambda past: past.change(k, w), "steadiness": lambda past: past.steadiness(k, w)}
    spread: Role = "spread" if role == "level" and spec.kind == "change" else "free"
    return Column(f"{spec.column}_{spec.kind}_{k}_{w}", spread, k + w - 1, spec.column, compute[spec.kind])


def _return(spec: Return, k: int) -> Column:
    compute: dict[str, Callable[[Past], np.ndarray]] = {
        "return": lambda past: past.log_return(k),
        "abs_return": lambda past: np.abs(past.log_return(k)),
        "negative_return": lambda past: np.minimum(past.log_return(k), 0.0),
    }
    return Column(f"{spec.column}_{spec.kind}_{k}", "free", k, spec.column, compute[spec.kind])
