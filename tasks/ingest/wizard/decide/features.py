"""The section `features`."""

from typing import Any

import polars as pl

from tasks.ingest.wizard.decide import budget
from tasks.ingest.wizard.decide.draft import EntryDraft
from tasks.ingest.wizard.decide.target import ProposedTarget
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.grid import DetectedGrid
from tasks.ingest.wizard.inspect.inspected import InspectedFiles
from tasks.ingest.wizard.inspect.target import compute_spread_ratio

# Spreads of series further apart than this get a scale; a log makes most of them alike
UNLIKE = {"none": 3.0, "log": 10.0, "log1p": 10.0}


def add_features(
    look: InspectedFiles,
    grid: DetectedGrid,
    target: ProposedTarget,
    windows: list[int],
    capped: pl.DataFrame,
    walk: budget.WalkForwardBudget,
    draft: EntryDraft,
) -> None:
    """Write the section `features`."""
    s = grid.season_steps
    lags = [
        *range(1, min(6, max(2, walk.min_train_steps // 10)) + 1),
        *([s, 2 * s] if s > 1 else []),
        *([grid.second_season_steps] if grid.second_season_steps else []),
    ]
    # Longer reacts too slowly
    spread = (
        max(windows[-1], 4) if windows[-1] <= 200 else max(w for w in windows if w <= 200 or w == windows[0])
    )
    listed: list[tuple[dict[str, Any], str]] = [
        (
            {"kind": "lag", "column": "z", "steps": sorted(set(lags))},
            "the last steps" + (", and the same place one and two seasons ago" if s > 1 else ""),
        ),
        (
            {"kind": "mean", "column": "z", "window_steps": windows},
            "levels at several spans; har and window_mean read them, too",
        ),
        ({"kind": "std", "column": "z", "window_steps": [spread]}, "how much it moves at present"),
        ({"kind": "min", "column": "z", "window_steps": [spread]}, ""),
        ({"kind": "max", "column": "z", "window_steps": [spread]}, ""),
    ]
    if look.bars and target.column == "gk_vol":
        steps = sorted({1, *windows[:2]})
        listed.append(
            (
                {"kind": "abs_return", "column": "close", "steps": steps},
                "large moves are followed by large moves",
            )
        )
        listed.append(
            ({"kind": "negative_return", "column": "close", "steps": steps}, "and losses more so than gains")
        )
    listed += [({"kind": "value", "column": c}, "as known at the cutoff") for c in target.others]
    if parts := _list_calendar_parts(grid, look.integer_time, walk):
        listed.append(({"kind": "calendar", "parts": parts}, "in UTC"))
    draft.add_value(("features", "list"), [spec for spec, _ in listed])
    draft.reasons |= {("features", "list", i): why for i, (_, why) in enumerate(listed) if why}
    within = _compute_silence_steps(capped)
    if within > 5:
        draft.add_value(
            ("features", "last_within_steps"),
            within,
            "runs of steps without a value are longer than 5; 99 of 100 end within these",
        )
    unlike = compute_spread_ratio(capped, "__z")
    if unlike > UNLIKE[target.transform]:
        draft.add_value(
            ("features", "scale"),
            f"z_std_{spread}",
            f"the series' spreads differ {unlike:.0f} fold, so errors are counted in units of each"
            " series' own",
        )


def _list_calendar_parts(grid: DetectedGrid, integer_time: bool, walk: budget.WalkForwardBudget) -> list[str]:
    """Parts that vary within the training history and not with every row."""
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
    year = {"h": 8_760, "d": 365, "w": 52}.get(unit)
    return [*parts, *(["month"] if year and walk.min_train_steps >= year else [])]


def _compute_silence_steps(rows: pl.DataFrame) -> int:
    """Steps within which 99 of 100 runs without a value end, at most 60."""
    known = rows.drop_nulls("__z").filter(pl.col("__z").is_finite())
    same = pl.col("series_id") == pl.col("series_id").shift()
    steps = known.select(pl.when(same).then(pl.col("event_time").diff()).alias("d")).drop_nulls()["d"]
    if not len(steps):
        return 0
    counts = steps.to_physical()
    longer = counts.filter(counts > counts.min())
    if len(longer) < 10:
        return 0
    return min(
        60, int(convert_to_float(longer.quantile(0.99)) / max(1.0, convert_to_float(counts.mode().min())))
    )
