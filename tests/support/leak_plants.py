"""Targets, honest columns and leaks drawn at random, as rows that a stage would read: what the
gate must find, and what it must leave alone."""

from datetime import UTC, datetime

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.frames import SERIES
from tasks.features import FeatureParams
from tasks.features.leaks import find_leaks
from tasks.features.stage import build_feature_set

SEASON = 24
TARGETS = ("season", "autoregression", "walk", "slow", "heavy")
FORMS = ("value", "mean", "centred mean", "change", "exp", "falling", "steps", "tanh")


def autoregression(rng, n, phi, sd=1.0):
    noise, x = rng.normal(0, sd, n + 200), np.zeros(n + 200)
    for t in range(1, n + 200):
        x[t] = phi * x[t - 1] + noise[t]
    return x[200:]


def target(rng, kind, n):
    season = np.sin(2 * np.pi * np.arange(n) / SEASON)
    match kind:
        case "season":
            return 2 * season + autoregression(rng, n, 0.8, 0.6)
        case "autoregression":
            return autoregression(rng, n, 0.7)
        case "walk":
            return rng.normal(size=n).cumsum()
        case "slow":
            return autoregression(rng, n, 0.97)
        case "heavy":
            return np.exp(0.5 * autoregression(rng, n, 0.9, 0.4)) * (1 + 0.3 * season)


def ahead_of(y, form, lead):
    """What a leak of *form* holds, and the sd of what the target's own past leaves open of it."""
    n, later = len(y), np.append(y, np.full(lead, y[-1]))
    sums, row = np.append(0, later.cumsum()), np.arange(n)
    first = np.maximum(row - lead, 0) if form == "centred mean" else row + 1
    means = form in {"mean", "centred mean"}
    held = (sums[row + lead + 1] - sums[first]) / (row + lead + 1 - first) if means else later[lead:]
    held = held - y if form == "change" else held
    past = np.column_stack(
        [
            np.ones(n),
            sums[row + 1] - sums[np.maximum(row - lead, 0)],
            *(np.roll(y, k) for k in (0, 1, 2, 23, 24, 25)),
        ]
    )
    middle = slice(2 * SEASON, n - lead)
    left = held[middle] - past[middle] @ np.linalg.lstsq(past[middle], held[middle], rcond=None)[0]
    return held, left.std()


def leak(rng, y, form, lead, noise, share):
    """A column that holds the target *lead* steps later, with *noise* of so many sd of what was
    open; in a *share* of the rows, elsewhere values of other rows."""
    held, sd = ahead_of(y, form, lead)
    x = held + noise * sd * rng.normal(size=len(y))
    shape = (x - x.mean()) / x.std()
    match form:
        case "exp":
            x = np.exp(shape)
        case "falling":
            x = -(shape**3)
        case "steps":
            x = np.round(x / sd * 2)
        case "tanh":
            x = np.tanh(shape)
    return np.where(rng.random(len(y)) < share, x, rng.permutation(x))


def honest_pair(rng, kind, of_target, n):
    """(target, column): the column says something of the target, and knows nothing later."""
    base, row = target(rng, of_target, n), np.arange(n)
    sd = base.std()
    weather = autoregression(rng, n, 0.95, np.sqrt(1 - 0.95**2))
    white, late = rng.normal(size=n), np.append(np.zeros(2), base[:-2])
    slow_answer = np.convolve(weather, np.exp(-np.arange(12) / 4) / 4)[:n]
    flow = autoregression(rng, n, 0.9, np.sqrt(1 - 0.9**2))
    return {
        "another": (base, flow),
        "another walk": (base, white.cumsum()),
        "weather": (base + 0.5 * sd * weather, weather),
        "seasonal weather": (base + 0.5 * sd * weather, weather + 3 * np.sin(2 * np.pi * (row - 3) / SEASON)),
        "shock": (base + 0.5 * sd * white, white),
        "noisy meter": (base, base + 0.5 * sd * white),
        "late meter": (base, late + 0.2 * late.std() * white),
        "answered within hours": (base + 0.6 * sd * slow_answer, weather),
        "upstream gauge": (base + 0.5 * sd * np.append(flow[:1].repeat(3), flow[:-3]), flow),
        "mean of a day": (base + 0.5 * sd * weather, np.convolve(weather, np.ones(SEASON) / SEASON)[:n]),
    }[kind]


HONEST = (
    "another",
    "another walk",
    "weather",
    "seasonal weather",
    "shock",
    "noisy meter",
    "late meter",
    "answered within hours",
    "upstream gauge",
    "mean of a day",
)


def rows_of(series, columns):
    """SERIES rows, hourly. series: {id: {column: values}}."""
    start = datetime(2023, 1, 1, tzinfo=UTC)
    frames = []
    for name, values in series.items():
        n = len(values[columns[0]])
        hours = pl.select(
            pl.lit(start).dt.cast_time_unit("us") + pl.duration(hours=pl.int_range(n))
        ).to_series()
        frames.append(
            pl.DataFrame({"series_id": name, "event_time": hours, **{c: values[c] for c in columns}})
        )
    return SERIES.conform(
        pl.concat(frames).with_columns(known_at=pl.col("event_time") + pl.duration(hours=1))
    )


def verdict_of(rows, horizon_steps, listed=None, columns=("x",), season_steps=SEASON, **params):
    """What the gate says of features of *rows*: the value of `x`, unless others are *listed*."""
    about = About(
        description="t",
        every="1h",
        horizon_steps=horizon_steps,
        season_steps=season_steps,
        target={"column": "load", "unit": "1"},
        covariates={"past": columns},
    )
    declared = FeatureParams.model_validate(
        {
            "list": listed or [{"kind": "value", "column": c} for c in columns],
            "leaks": {"n_cutoffs": 1, **params},
        }
    )
    made = build_feature_set(rows, about, declared)
    return find_leaks(rows, about, declared, made.table, made.calendar)
