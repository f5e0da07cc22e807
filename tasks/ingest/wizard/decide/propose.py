"""From what the files are to the dataset's entry: every choice with its reason."""

from dataclasses import dataclass, field
from math import ceil, floor, log10
from typing import Any

import polars as pl

from tasks.core.errors import SourceError
from tasks.edges.params import STAGES
from tasks.ingest.wizard.decide import budget
from tasks.ingest.wizard.inspect import bars
from tasks.ingest.wizard.inspect.figures import convert_to_float, convert_to_int
from tasks.ingest.wizard.inspect.grid import (
    DetectedGrid,
    align_to_step,
    find_every,
    find_grid,
    find_snap_reason,
    list_unlike_steps,
)
from tasks.ingest.wizard.inspect.look import InspectedFiles, OwnerAnswers
from tasks.ingest.wizard.inspect.series import (
    MOST_FLAT_FRAC,
    NEVER_CHANGES,
    add_z,
    compute_spread_ratio,
    garman_klass,
    select_target_column,
    select_transform,
)

MOST_COVARIATES = 12
MOST_MET_FRAC = 0.2  # of the rows that fall into a step with another one; of these only the first would count
# Spreads of series further apart than this get a scale; a log makes most of them alike
UNLIKE = {"none": 3.0, "log": 10.0, "log1p": 10.0}
MANY_SERIES = 10  # of fewer one can look at each
UNLIKE_SIZE = 10.0  # ninth decile of the series' medians over the first
_HORIZONS = {
    "1m": 30,
    "5m": 12,
    "10m": 12,
    "15m": 16,
    "30m": 24,
    "1h": 24,
    "1d": 7,
    "1w": 8,
    "1mo": 12,
    "1q": 4,
    "1y": 3,
}
_WORDS = {
    "m": "minute",
    "h": "hour",
    "d": "day",
    "w": "week",
    "mo": "month",
    "q": "quarter",
    "y": "year",
    "s": "second",
}

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class EntryProposal:
    """entry: what goes under `datasets.NAME`. reasons: comments by path into the entry. said:
    facts and caps to tell. questions: what files do not answer.
    """

    entry: dict[str, Any]
    reasons: dict[Path, str]
    said: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass
class _EntryDraft:
    entry: dict[str, Any] = field(
        default_factory=lambda: {"about": {}, "models": {}} | {stage: {} for stage in STAGES}
    )
    reasons: dict[Path, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def add_value(self, path: Path, value: Any, reason: str | None = None) -> None:
        """Set *value* at *path* of the entry, with the reason beside it."""
        place = self.entry
        for key in path[:-1]:
            place = place.setdefault(str(key), {})
        place[str(path[-1])] = value
        if reason:
            self.reasons[path] = reason


@dataclass(frozen=True)
class _ProposedTarget:
    column: str
    others: tuple[str, ...]
    transform: str
    score: str


def build_proposal(look: InspectedFiles, asked: OwnerAnswers) -> EntryProposal:
    """The entry. Raises SourceError when the history is too short for any honest score."""
    draft = _EntryDraft(questions=list(look.questions))
    rows, target = _select_target(look, asked, draft)
    before = rows.height
    rows, snapped = _align_rows(rows, look, asked)
    capped, limits = _apply_caps(rows)
    grid = _decide_grid(rows, look, asked, draft)
    kept = (
        grid
        if capped.height == rows.height
        else find_grid(capped, "__z", look.integer_time, grid.every, grid.season_steps)
    )
    horizon = _decide_horizon(grid, look, asked, draft)
    windows = _list_windows(grid, kept.n_steps)
    walk = budget.plan_budget(kept.n_steps, kept.n_series, horizon, grid.season_steps, windows[-1])
    _add_about(look, grid, target, draft)
    _add_ingest(look, asked, limits, kept, draft)
    if snapped:
        draft.add_value(("ingest", "source", "snap_times"), value=True, reason=snapped)
        draft.said.append(
            f"Times are moved back to the start of their step: {snapped}. {before - rows.height} rows then"
            " repeat a step."
        )
    _add_validate(look, capped, draft)
    _add_features(look, grid, target, windows, capped, walk, draft)
    _add_models(grid, windows, walk, draft)
    _add_walk_forward(walk, grid, kept, draft)
    return EntryProposal(draft.entry, draft.reasons, tuple(draft.said), tuple(draft.questions))


# --- the target
# --------------------------------------------------------------------------------------------------


def _select_target(
    look: InspectedFiles, asked: OwnerAnswers, draft: _EntryDraft
) -> tuple[pl.DataFrame, _ProposedTarget]:
    """Rows with `__z`, and what is forecast."""
    if look.bars and asked.target is None:
        return _build_volatility_target(look, asked, draft)
    column, others, why, question = select_target_column(look, asked.target)
    draft.questions += [question] if question else []
    draft.add_value(("about", "target", "column"), column, why)
    draft.add_value(
        ("about", "target", "unit"),
        asked.unit or f"unit of {column}",
        "as asked" if asked.unit else "not in the file: say --unit",
    )
    if asked.unit is None:
        draft.questions.append(f"Which unit has `{column}`? say --unit")
    transform = select_transform(look.rows, column, asked.season or 24)
    draft.add_value(("about", "target", "transform"), transform.value, transform.reason)
    if transform.reason == NEVER_CHANGES:
        draft.said.append(f"`{column}` never changes: the last value is right, and no model can be better.")
    score, why = _select_score(look.rows, column)
    draft.add_value(("about", "primary_score"), score, why)
    return add_z(look.rows, column, transform.value), _ProposedTarget(
        column, tuple(others[:MOST_COVARIATES]), transform.value, score
    )


def _select_score(rows: pl.DataFrame, column: str) -> tuple[str, str]:
    """`mae`, and `smape` where the largest of many series would decide alone."""
    known = rows.filter(pl.col(column).is_finite())
    sizes = known.group_by("series_id").agg(pl.col(column).median())[column]
    if len(sizes) >= MANY_SERIES and convert_to_float(known[column].min()) > 0:
        wide = convert_to_float(sizes.quantile(0.9)) / convert_to_float(sizes.quantile(0.1))
        if wide > UNLIKE_SIZE:
            return (
                "smape",
                (
                    f"in percent: the sizes of {len(sizes)} series differ {wide:.0f} fold, and in the"
                    " target's unit the largest would decide alone"
                ),
            )
    return "mae", "robust, in the target's unit; rmse when large errors hurt more than in proportion"


def _build_volatility_target(
    look: InspectedFiles, asked: OwnerAnswers, draft: _EntryDraft
) -> tuple[pl.DataFrame, _ProposedTarget]:
    """Price bars: their volatility can be forecast, their returns cannot."""
    y = garman_klass(look.rows)
    flat = convert_to_float((y <= 0).mean())
    draft.add_value(
        ("about", "target", "column"),
        "gk_vol",
        "the bar's Garman-Klass volatility: it can be forecast; returns cannot, and an honest gate would"
        " refuse every model",
    )
    draft.add_value(("about", "target", "unit"), asked.unit or "volatility per step (fraction)")
    draft.add_value(
        ("about", "target", "derive"),
        "garman_klass",
        "from open, high, low and close; what happens between bars is not in it",
    )
    draft.questions.append(
        "The bars' volatility is forecast, since returns are not predictable. To forecast a price instead,"
        " say --target close."
    )
    rows = look.rows.with_columns(y.alias("__y"))
    if flat > MOST_FLAT_FRAC:
        draft.add_value(
            ("about", "target", "transform"),
            "none",
            f"{flat:.0%} of the bars do not move, and a log would count them as missing",
        )
        draft.add_value(("about", "primary_score"), "mae", "qlike is undefined for a volatility of 0")
        draft.questions.append(
            f"{flat:.0%} of the bars do not move at all; longer bars (for example an hour) would give a"
            " better target."
        )
        return add_z(rows, "__y", "none").drop("__y"), _ProposedTarget("gk_vol", (), "none", "mae")
    least = _compute_outer_bound((convert_to_float(y.filter(y > 0).median()) or 1e-4) / 100, up=False)
    draft.add_value(
        ("about", "target", "transform"), "log", "volatility is positive and its spread grows with its level"
    )
    draft.add_value(
        ("about", "target", "floor"),
        least,
        f"a hundredth of the median; {flat:.2%} of the bars are flat, say nothing about risk and count as"
        " missing",
    )
    draft.add_value(
        ("about", "primary_score"),
        "qlike",
        "the loss for variances: an underestimate of risk costs more than an overestimate",
    )
    return add_z(rows.with_columns(pl.when(pl.col("__y") >= least).then("__y")), "__y", "log").drop(
        "__y"
    ), _ProposedTarget("gk_vol", (), "log", "qlike")


# --- size
# --------------------------------------------------------------------------------------------------


def _apply_caps(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows that ingest will keep, and its caps."""
    lengths = rows.group_by("series_id").len().sort("series_id")
    most_rows, most_series = budget.compute_caps(lengths.height, convert_to_int(lengths["len"].max()))
    limits = {}
    if most_series is not None:
        limits["max_series"] = most_series
        rows = rows.filter(pl.col("series_id").is_in(lengths["series_id"].head(most_series).implode()))
    if most_rows is not None:
        limits["max_rows_per_series"] = most_rows
        rows = rows.filter(pl.int_range(pl.len(), 0, -1).over("series_id") <= most_rows)
    return rows, limits


def _align_rows(
    rows: pl.DataFrame, look: InspectedFiles, asked: OwnerAnswers
) -> tuple[pl.DataFrame, str | None]:
    """The rows on one grid, and why they had to be moved.

    Raises SourceError when that would throw many away.
    """
    if look.integer_time:
        return rows, None
    every = asked.every or find_every(rows)[0]
    why = find_snap_reason(rows, every)
    if why is None:
        return rows, None
    moved = align_to_step(rows, every)
    if (met := 1 - moved.height / rows.height) > MOST_MET_FRAC:
        usual = find_every(rows)[0]
        leave_it = f"Leave `--every {every}` away: rows come every {usual}"
        way_out = leave_it if asked.every else "Say the series with `--series`"
        raise SourceError(
            f"Within steps of {every} {met:.0%} of the rows meet another one, and rows are not aggregated."
            f" {way_out}, or aggregate the file first."
        )
    return moved, why


def _decide_grid(
    rows: pl.DataFrame, look: InspectedFiles, asked: OwnerAnswers, draft: _EntryDraft
) -> DetectedGrid:
    grid = find_grid(rows, "__z", look.integer_time, asked.every, asked.season)
    n = f"{grid.n_series} series" if grid.n_series > 1 else "1 series"
    draft.said.append(
        f"{look.received} rows read from {look.n_files} file(s): {n} on {grid.n_steps} steps of {grid.every},"
        f" {_format_span(rows, look.integer_time)}."
    )
    if grid.n_missing:
        draft.said.append(
            f"{grid.n_missing} steps are missing, the longest gap has {grid.longest_gap}; they become gaps on"
            " the grid, nothing is filled in."
        )
    if not look.integer_time and (unlike := list_unlike_steps(rows)):
        draft.questions.append(
            f"The series have steps of unlike length ({', '.join(unlike)}); better make a dataset of each."
        )
    if look.repeated:
        draft.said.append(f"{look.repeated} rows repeat a key; ingest keeps them apart and counts them.")
    if grid.off_grid:
        draft.said.append(
            f"{grid.off_grid} rows are no step of {grid.every}; validate puts them into quarantine."
        )
    return grid


def _format_span(rows: pl.DataFrame, integer_time: bool) -> str:
    if integer_time:
        return "without dates"
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    return f"{first:%F} to {last:%F}"


def _decide_horizon(grid: DetectedGrid, look: InspectedFiles, asked: OwnerAnswers, draft: _EntryDraft) -> int:
    if asked.horizon is not None:
        steps, why = asked.horizon, "as asked"
    elif look.integer_time and grid.season_steps > 1:
        steps, why = 2 * grid.season_steps, "two seasons, since there is no time to go by"
    elif grid.calendar != "continuous":
        steps, why = 5, "a trading week"
    else:
        steps, why = _HORIZONS.get(grid.every, 12), "usual for this step; say --horizon for another"
    if asked.horizon is None and steps > grid.n_steps // 16:
        steps, why = max(1, grid.n_steps // 16), "a sixteenth of a short history"
    draft.add_value(("about", "horizon_steps"), steps, why)
    return steps


def _list_windows(grid: DetectedGrid, n_steps: int) -> list[int]:
    """Spans of rolling features: part of a season, a season, several; without one a week's, a
    month's and a quarter's worth of steps.
    """
    s = grid.season_steps
    wanted = [max(2, s // 4), s, grid.second_season_steps or 4 * s] if s > 1 else [5, 22, 66]
    fitting = [w for w in wanted if w <= n_steps // 12]
    return sorted(set(fitting)) or [3]


# --- sections
# --------------------------------------------------------------------------------------------------


def _add_about(look: InspectedFiles, grid: DetectedGrid, target: _ProposedTarget, draft: _EntryDraft) -> None:
    about = draft.entry["about"]
    first = {
        "description": (
            f"{_describe_target(target, look)}, {grid.n_series} series every"
            f" {grid.every if not look.integer_time else 'step'},"
            f" {_format_span(look.rows, look.integer_time)}."
        ),
        "every": grid.every,
        "calendar": grid.calendar,
    }
    last = {"season_steps": grid.season_steps} | (
        {"covariates": {"past": list(target.others)}} if target.others else {}
    )
    integer = {"integer_time": True} if look.integer_time else {}
    draft.entry["about"] = (
        first
        | integer
        | {k: about[k] for k in ("target", "horizon_steps")}
        | last
        | {"primary_score": about["primary_score"]}
    )
    for key in ("every", "calendar", "season_steps"):
        draft.reasons["about", key] = grid.reasons[key]
    if look.integer_time:
        draft.reasons["about", "integer_time"] = look.reasons.get(
            "time_column", "the columns are steps; series are aligned at their last value"
        )
    if target.others:
        left_out = len(look.values) - 1 - len(target.others)
        draft.reasons["about", "covariates"] = "known up to the cutoff only" + (
            f"; {left_out} further columns are left out" if left_out else ""
        )


def _describe_target(target: _ProposedTarget, look: InspectedFiles) -> str:
    return (
        "Garman-Klass volatility of price bars"
        if target.column == "gk_vol" and look.bars
        else f"Column {target.column}"
    )


def _add_ingest(
    look: InspectedFiles, asked: OwnerAnswers, limits: dict[str, int], kept: DetectedGrid, draft: _EntryDraft
) -> None:
    source = {
        "kind": "files",
        "files": [asked.pattern],
        **{k: v for k, v in look.source.items() if k != "kind"},
        **limits,
    }
    draft.entry["ingest"] = {"source": source}
    for key, reason in look.reasons.items():
        if key in source:
            draft.reasons["ingest", "source", key] = reason
    if "max_rows_per_series" in limits:
        why = (
            f"the newest; {kept.n_series} series of that many rows train in about a minute on 2 cores. Raise"
            " it when you have the time"
        )
        draft.reasons["ingest", "source", "max_rows_per_series"] = why
        draft.said.append(
            f"Capped: the newest {limits['max_rows_per_series']} rows of each series are used"
            " (ingest.source.max_rows_per_series)."
        )
    if "max_series" in limits:
        draft.reasons["ingest", "source", "max_series"] = (
            "more would take longer than about a minute; raise it when you have the time"
        )
        draft.said.append(
            f"Capped: the first {limits['max_series']} series by name are used (ingest.source.max_series)."
        )


def _add_validate(look: InspectedFiles, capped: pl.DataFrame, draft: _EntryDraft) -> None:
    draft.add_value(
        ("validate", "min_rows"),
        max(1, capped.height // 2),
        "half of what the files give today; fewer is a broken delivery",
    )
    for column in look.values:
        rule, reason = build_column_rule(
            look.rows[column],
            price=look.bars and column in bars.PRICES,
            volume=look.bars and column not in bars.PRICES,
        )
        draft.add_value(("validate", "columns", column), rule, reason)
    if look.bars:
        pairs = [["high", "low"], ["high", "open"], ["high", "close"], ["open", "low"], ["close", "low"]]
        draft.add_value(
            ("validate", "rows"),
            [{"greater_or_equal": pair} for pair in pairs],
            "what a bar is: high is its greatest price, low its least",
        )


def build_column_rule(
    values: pl.Series, *, price: bool = False, volume: bool = False
) -> tuple[dict[str, Any], str]:
    """Bounds for a column with slack, and why. values: everything that was seen of it."""
    known = values.drop_nulls()
    least, most = convert_to_float(known.min()), convert_to_float(known.max())
    seen = f"seen {least:.6g} to {most:.6g}"
    rule: dict[str, Any]
    if price:
        rule, why = (
            {
                "min": 0,
                "strict_min": True,
            },
            f"a price is positive; {seen}, and a trend has no upper bound",
        )
    elif volume and least >= 0:
        rule, why = {"min": 0}, f"not negative; {seen}"
    elif least >= 0 and (least == 0 or most / least >= 10):
        rule, why = (
            {
                "min": 0,
                "max": _compute_outer_bound(10 * most or 1.0),
            },
            f"{seen}; up to ten times the largest",
        )
    else:
        slack = (most - least) or abs(most) or 1.0
        low = _compute_outer_bound(least - slack, up=False)
        rule, why = (
            {
                "min": max(0, low) if least > 0 else low,
                "max": _compute_outer_bound(most + slack),
            },
            f"{seen}; as much again on either side",
        )
    if least > 0 and rule["min"] == 0:
        rule["strict_min"] = True
    if missing := values.null_count():
        rule["nullable"] = True
        why += f"; {missing} cells are empty"
    return rule, why


def _compute_outer_bound(value: float, *, up: bool = True) -> float:
    """To two significant digits, away from what was seen."""
    if value == 0:
        return 0
    unit = 10.0 ** (floor(log10(abs(value))) - 1)
    rounded = (ceil if up else floor)(value / unit) * unit
    return int(rounded) if unit >= 1 else float(f"{rounded:.2g}")


def _add_features(
    look: InspectedFiles,
    grid: DetectedGrid,
    target: _ProposedTarget,
    windows: list[int],
    capped: pl.DataFrame,
    walk: budget.WalkForwardBudget,
    draft: _EntryDraft,
) -> None:
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


def _add_models(
    grid: DetectedGrid, windows: list[int], walk: budget.WalkForwardBudget, draft: _EntryDraft
) -> None:
    s = grid.season_steps
    mean = s if s in windows else windows[min(1, len(windows) - 1)]
    draft.add_value(
        ("models", "last_value"), {}, "a baseline that a first release must beat: the last value again"
    )
    draft.add_value(
        ("models", "window_mean"), {"window_steps": mean}, f"a baseline: the mean of {mean} steps"
    )
    if s > 1:
        draft.add_value(("models", "seasonal_naive"), {}, f"a baseline: the value {s} steps before")
    draft.add_value(
        ("models", "har"), {"windows_steps": sorted({1, *windows})}, "regression on the means at these spans"
    )
    draft.add_value(("models", "ridge"), {}, "pooled over the series; the one to beat")
    draft.add_value(
        ("models", "lightgbm"),
        {"max_rows": budget.LIGHTGBM_ROWS},
        "trees on what ridge leaves over; so many pairs of origin and step are drawn evenly from the history,"
        " for about a second a fit",
    )
    if walk.net:
        draft.add_value(("models", "mlp"), {}, "a small net, about a second a fit")
    else:
        draft.said.append("No net among the models: the history is too short to feed one.")


def _add_walk_forward(
    walk: budget.WalkForwardBudget, grid: DetectedGrid, kept: DetectedGrid, draft: _EntryDraft
) -> None:
    draft.add_value(
        ("train", "n_cutoffs"),
        walk.n_cutoffs,
        f"as many as {kept.n_steps} steps and {kept.n_series} series allow without writing more forecasts"
        " than needed",
    )
    aside = (
        ", and no multiple of the season, so that cutoffs fall on all hours"
        if grid.season_steps > 1 and walk.stride_steps > 1
        else ""
    )
    draft.add_value(
        ("train", "stride_steps"), walk.stride_steps, f"spreads them over what is left of the history{aside}"
    )
    draft.add_value(
        ("train", "refit_every_cutoffs"),
        walk.refit_every_cutoffs,
        f"{walk.n_refits} refits at about {walk.refit_s:.1f} s each on one core for all models",
    )
    draft.add_value(("train", "min_train_steps"), walk.min_train_steps, "history before the first cutoff")
    draft.add_value(("train", "embargo_steps"), 0, "no sign of late corrections in a file")
    draft.add_value(
        ("promote", "gate_steps"),
        walk.gate_steps,
        "the newest steps, which no fit or weight sees;"
        f" {walk.gate_steps - draft.entry['about']['horizon_steps']} cutoffs in them are known to the last"
        " step",
    )
    draft.add_value(("promote", "min_gate_rows"), walk.min_gate_rows, "fewer paired cutoffs decide nothing")
    draft.add_value(
        ("retrain", "max_age_steps"),
        walk.max_age_steps,
        "as old as a fit got in the walk-forward that scored it",
    )
    draft.said.append(
        f"Walk-forward: {walk.n_cutoffs} cutoffs every {walk.stride_steps} steps, {walk.n_refits} refits; the"
        f" gate has the newest {walk.gate_steps} steps."
    )
    if walk.min_gate_rows < 30:
        draft.said.append(
            "The gate's rows are few: unless a model is much better than the baseline, promote will say"
            " *inconclusive*."
        )
