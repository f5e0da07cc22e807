"""The section `features`: lags, rolling statistics, moves of bars, covariates, calendar."""

from typing import Any

import polars as pl

from tasks.ingest.wizard.decide.budget import WalkForwardBudget
from tasks.ingest.wizard.decide.draft import EntryDraft
from tasks.ingest.wizard.decide.target import ProposedTarget
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.grid import DetectedGrid
from tasks.ingest.wizard.inspect.inspected import InspectedFiles
from tasks.ingest.wizard.inspect.target import compute_spread_ratio

# above it, by transform, the series get a scale; a log makes the spreads of most series similar
MAX_SPREAD_RATIO = {"none": 3.0, "log": 10.0, "log1p": 10.0}
MAX_SPREAD_WINDOW_STEPS = 200  # a longer window reacts too slowly
DEFAULT_LAST_WITHIN_STEPS = 5

ReasonedFeature = tuple[dict[str, Any], str]


def add_features(
    inspected: InspectedFiles,
    grid: DetectedGrid,
    target: ProposedTarget,
    windows: list[int],
    capped: pl.DataFrame,
    walk: WalkForwardBudget,
    draft: EntryDraft,
) -> None:
    """Set the section `features`.

    windows: spans of rolling features, ascending.
    capped: the rows that ingest will keep, with `__z`.
    """
    spread_window = _select_spread_window(windows)
    features = _list_target_features(grid, windows, spread_window, walk)
    if inspected.bars and target.column == "gk_vol":
        features += _list_return_features(windows)
    features += [({"kind": "value", "column": c}, "as known at the cutoff") for c in target.others]
    if parts := _list_calendar_parts(grid, inspected.integer_time, walk):
        features.append(({"kind": "calendar", "parts": parts}, "in UTC"))
    draft.add_value(("features", "list"), [feature for feature, _ in features])
    draft.reasons |= {("features", "list", i): reason for i, (_, reason) in enumerate(features) if reason}
    if (gap_steps := _compute_gap_steps(capped)) > DEFAULT_LAST_WITHIN_STEPS:
        draft.add_value(
            ("features", "last_within_steps"),
            gap_steps,
            "runs of steps without a value are longer than 5; 99 of 100 end within these",
        )
    if (ratio := compute_spread_ratio(capped, "__z")) > MAX_SPREAD_RATIO[target.transform]:
        draft.add_value(
            ("features", "scale"),
            f"z_std_{spread_window}",
            f"the series' spreads differ {ratio:.0f} fold, so errors are counted in units of each"
            " series' own",
        )


def _select_spread_window(windows: list[int]) -> int:
    """The longest window that does not react too slowly."""
    if windows[-1] <= MAX_SPREAD_WINDOW_STEPS:
        return max(windows[-1], 4)
    return max(w for w in windows if w <= MAX_SPREAD_WINDOW_STEPS or w == windows[0])


def _list_target_features(
    grid: DetectedGrid, windows: list[int], spread_window: int, walk: WalkForwardBudget
) -> list[ReasonedFeature]:
    """Lags and rolling statistics of the target."""
    season = grid.season_steps
    lags = [
        *range(1, min(6, max(2, walk.min_train_steps // 10)) + 1),
        *([season, 2 * season] if season > 1 else []),
        *([grid.second_season_steps] if grid.second_season_steps else []),
    ]
    return [
        (
            {"kind": "lag", "column": "z", "steps": sorted(set(lags))},
            "the last steps" + (", and the same step one and two seasons ago" if season > 1 else ""),
        ),
        (
            {"kind": "mean", "column": "z", "window_steps": windows},
            "levels at several spans; har and window_mean read them, too",
        ),
        ({"kind": "std", "column": "z", "window_steps": [spread_window]}, "how much it moves at present"),
        ({"kind": "min", "column": "z", "window_steps": [spread_window]}, ""),
        ({"kind": "max", "column": "z", "window_steps": [spread_window]}, ""),
    ]


def _list_return_features(windows: list[int]) -> list[ReasonedFeature]:
    """Returns of the close, for the volatility of bars."""
    steps = sorted({1, *windows[:2]})
    return [
        (
            {"kind": "abs_return", "column": "close", "steps": steps},
            "large moves are followed by large moves",
        ),
        ({"kind": "negative_return", "column": "close", "steps": steps}, "and losses more so than gains"),
    ]


def _list_calendar_parts(grid: DetectedGrid, integer_time: bool, walk: WalkForwardBudget) -> list[str]:
    """Parts that vary within the training history, but not with every row."""
    unit = grid.every.lstrip("0123456789")
    if integer_time or unit == "y":
        return []
    parts = {
        "s": ["hour", "weekday"],
        "m": ["hour", "weekday"],
        "h": ["hour", "weekday"],
        "d": ["weekday"],
        "w": [],
        "mo": ["month"],
        "q": ["quarter"],
    }[unit]
    year_steps = {"h": 8_760, "d": 365, "w": 52}.get(unit)
    return [*parts, *(["month"] if year_steps and walk.min_train_steps >= year_steps else [])]


def _compute_gap_steps(rows: pl.DataFrame) -> int:
    """Steps within which 99 of 100 runs without a value end, at most 60."""
    known = rows.drop_nulls("__z").filter(pl.col("__z").is_finite())
    same = pl.col("series_id") == pl.col("series_id").shift()
    steps = known.select(pl.when(same).then(pl.col("event_time").diff()).alias("d")).drop_nulls()["d"]
    if not len(steps):
        return 0
    lengths = steps.to_physical()
    longer = lengths.filter(lengths > lengths.min())
    if len(longer) < 10:
        return 0
    step = max(1.0, convert_to_float(lengths.mode().min()))
    return min(60, int(convert_to_float(longer.quantile(0.99)) / step))
