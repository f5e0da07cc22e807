"""From what the files are to the dataset's entry: every choice with its reason."""

from dataclasses import dataclass, field
from math import ceil, floor, log10
from typing import Any

import polars as pl

from tasks.core.errors import SourceError
from tasks.edges.params import STAGES
from tasks.ingest.wizard.decide import budget
from tasks.ingest.wizard.inspect import bars
from tasks.ingest.wizard.inspect.figures import number, whole
from tasks.ingest.wizard.inspect.grid import Grid, find_every, find_grid, snap, unlike_steps, why_snap
from tasks.ingest.wizard.inspect.look import Asked, Look
from tasks.ingest.wizard.inspect.series import MOST_FLAT_FRAC, NEVER_CHANGES, apart, garman_klass, pick_target, pick_transform, with_z

MOST_COVARIATES = 12
MOST_MET_FRAC = 0.2  # of the rows that fall into a step with another one; of these only the first would count
UNLIKE = {"none": 3.0, "log": 10.0, "log1p": 10.0}  # spreads of series further apart than this get a scale; a log makes most of them alike
MANY_SERIES = 10  # of fewer one can look at each
UNLIKE_SIZE = 10.0  # ninth decile of the series' medians over the first
_HORIZONS = {"1m": 30, "5m": 12, "10m": 12, "15m": 16, "30m": 24, "1h": 24, "1d": 7, "1w": 8, "1mo": 12, "1q": 4, "1y": 3}
_WORDS = {"m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "q": "quarter", "y": "year", "s": "second"}

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Proposal:
    """entry: what goes under `datasets.NAME`. reasons: comments by path into the entry. said: facts and caps to tell. questions: what files do not answer."""

    entry: dict[str, Any]
    reasons: dict[Path, str]
    said: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass
class _Draft:
    entry: dict[str, Any] = field(default_factory=lambda: {"about": {}, "models": {}} | {stage: {} for stage in STAGES})
    reasons: dict[Path, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def put(self, path: Path, value: Any, reason: str | None = None) -> None:
        """Set *value* at *path* of the entry, with the reason beside it."""
        place = self.entry
        for key in path[:-1]:
            place = place.setdefault(str(key), {})
        place[str(path[-1])] = value
        if reason:
            self.reasons[path] = reason


@dataclass(frozen=True)
class _Target:
    column: str
    others: tuple[str, ...]
    transform: str
    score: str


def propose(look: Look, asked: Asked) -> Proposal:
    """The entry. Raises SourceError when the history is too short for any honest score."""
    draft = _Draft(questions=list(look.questions))
    rows, target = _target(look, asked, draft)
    before = rows.height
    rows, snapped = _snapped(rows, look, asked)
    capped, limits = _capped(rows)
    grid = _grid(rows, look, asked, draft)
    kept = grid if capped.height == rows.height else find_grid(capped, "__z", look.integer_time, grid.every, grid.season_steps)
    horizon = _horizon(grid, look, asked, draft)
    windows = _windows(grid, kept.n_steps)
    walk = budget.plan(kept.n_steps, kept.n_series, horizon, grid.season_steps, windows[-1])
    _about(look, grid, target, draft)
    _ingest(look, asked, limits, kept, draft)
    if snapped:
        draft.put(("ingest", "source", "snap_times"), value=True, reason=snapped)
        draft.said.append(f"Times are moved back to the start of their step: {snapped}. {before - rows.height} rows then repeat a step.")
    _validate(look, capped, draft)
    _features(look, grid, target, windows, capped, walk, draft)
    _models(grid, windows, walk, draft)
    _walk(walk, grid, kept, draft)
    return Proposal(draft.entry, draft.reasons, tuple(draft.said), tuple(draft.questions))


# --- the target -----------------------------------------------------------------------------------------------------------------


def _target(look: Look, asked: Asked, draft: _Draft) -> tuple[pl.DataFrame, _Target]:
    """Rows with `__z`, and what is forecast."""
    if look.bars and asked.target is None:
        return _volatility(look, asked, draft)
    column, others, why, question = pick_target(look, asked.target)
    draft.questions += [question] if question else []
    draft.put(("about", "target", "column"), column, why)
    draft.put(("about", "target", "unit"), asked.unit or f"unit of {column}", "as asked" if asked.unit else "not in the file: say --unit")
    if asked.unit is None:
        draft.questions.append(f"Which unit has `{column}`? say --unit")
    transform = pick_transform(look.rows, column, asked.season or 24)
    draft.put(("about", "target", "transform"), transform.value, transform.reason)
    if transform.reason == NEVER_CHANGES:
        draft.said.append(f"`{column}` never changes: the last value is right, and no model can be better.")
    score, why = _score(look.rows, column)
    draft.put(("about", "primary_score"), score, why)
    return with_z(look.rows, column, transform.value), _Target(column, tuple(others[:MOST_COVARIATES]), transform.value, score)


def _score(rows: pl.DataFrame, column: str) -> tuple[str, str]:
    """`mae`, and `smape` where the largest of many series would decide alone."""
    known = rows.filter(pl.col(column).is_finite())
    sizes = known.group_by("series_id").agg(pl.col(column).median())[column]
    if len(sizes) >= MANY_SERIES and number(known[column].min()) > 0:
        wide = number(sizes.quantile(0.9)) / number(sizes.quantile(0.1))
        if wide > UNLIKE_SIZE:
            return (
                "smape",
                f"in percent: the sizes of {len(sizes)} series differ {wide:.0f} fold, and in the target's unit the largest would decide alone",
            )
    return "mae", "robust, in the target's unit; rmse when large errors hurt more than in proportion"


def _volatility(look: Look, asked: Asked, draft: _Draft) -> tuple[pl.DataFrame, _Target]:
    """Price bars: their volatility can be forecast, their returns cannot."""
    y = garman_klass(look.rows)
    flat = number((y <= 0).mean())
    draft.put(
        ("about", "target", "column"),
        "gk_vol",
        "the bar's Garman-Klass volatility: it can be forecast; returns cannot, and an honest gate would refuse every model",
    )
    draft.put(("about", "target", "unit"), asked.unit or "volatility per step (fraction)")
    draft.put(("about", "target", "derive"), "garman_klass", "from open, high, low and close; what happens between bars is not in it")
    draft.questions.append("The bars' volatility is forecast, since returns are not predictable. To forecast a price instead, say --target close.")
    rows = look.rows.with_columns(y.alias("__y"))
    if flat > MOST_FLAT_FRAC:
        draft.put(("about", "target", "transform"), "none", f"{flat:.0%} of the bars do not move, and a log would count them as missing")
        draft.put(("about", "primary_score"), "mae", "qlike is undefined for a volatility of 0")
        draft.questions.append(f"{flat:.0%} of the bars do not move at all; longer bars (for example an hour) would give a better target.")
        return with_z(rows, "__y", "none").drop("__y"), _Target("gk_vol", (), "none", "mae")
    least = _round((number(y.filter(y > 0).median()) or 1e-4) / 100, up=False)
    draft.put(("about", "target", "transform"), "log", "volatility is positive and its spread grows with its level")
    draft.put(
        ("about", "target", "floor"),
        least,
        f"a hundredth of the median; {flat:.2%} of the bars are flat, say nothing about risk and count as missing",
    )
    draft.put(("about", "primary_score"), "qlike", "the loss for variances: an underestimate of risk costs more than an overestimate")
    return with_z(rows.with_columns(pl.when(pl.col("__y") >= least).then("__y")), "__y", "log").drop("__y"), _Target("gk_vol", (), "log", "qlike")


# --- size -----------------------------------------------------------------------------------------------------------------------


def _capped(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows that ingest will keep, and its caps."""
    lengths = rows.group_by("series_id").len().sort("series_id")
    most_rows, most_series = budget.caps(lengths.height, whole(lengths["len"].max()))
    limits = {}
    if most_series is not None:
        limits["max_series"] = most_series
        rows = rows.filter(pl.col("series_id").is_in(lengths["series_id"].head(most_series).implode()))
    if most_rows is not None:
        limits["max_rows_per_series"] = most_rows
        rows = rows.filter(pl.int_range(pl.len(), 0, -1).over("series_id") <= most_rows)
    return rows, limits


def _snapped(rows: pl.DataFrame, look: Look, asked: Asked) -> tuple[pl.DataFrame, str | None]:
    """The rows on one grid, and why they had to be moved. Raises SourceError when that would throw many away."""
    if look.integer_time:
        return rows, None
    every = asked.every or find_every(rows)[0]
    why = why_snap(rows, every)
    if why is None:
        return rows, None
    moved = snap(rows, every)
    if (met := 1 - moved.height / rows.height) > MOST_MET_FRAC:
        usual = find_every(rows)[0]
        raise SourceError(
            f"Within steps of {every} {met:.0%} of the rows meet another one, and rows are not aggregated. "
            f"{f'Leave `--every {every}` away: rows come every {usual}' if asked.every else 'Say the series with `--series`'}, or aggregate the file first."
        )
    return moved, why


def _grid(rows: pl.DataFrame, look: Look, asked: Asked, draft: _Draft) -> Grid:
    grid = find_grid(rows, "__z", look.integer_time, asked.every, asked.season)
    n = f"{grid.n_series} series" if grid.n_series > 1 else "1 series"
    draft.said.append(
        f"{look.received} rows read from {look.n_files} file(s): {n} on {grid.n_steps} steps of {grid.every}, {_span(rows, look.integer_time)}."
    )
    if grid.n_missing:
        draft.said.append(
            f"{grid.n_missing} steps are missing, the longest gap has {grid.longest_gap}; they become gaps on the grid, nothing is filled in."
        )
    if not look.integer_time and (unlike := unlike_steps(rows)):
        draft.questions.append(f"The series have steps of unlike length ({', '.join(unlike)}); better make a dataset of each.")
    if look.repeated:
        draft.said.append(f"{look.repeated} rows repeat a key; ingest keeps them apart and counts them.")
    if grid.off_grid:
        draft.said.append(f"{grid.off_grid} rows are no step of {grid.every}; validate puts them into quarantine.")
    return grid


def _span(rows: pl.DataFrame, integer_time: bool) -> str:
    if integer_time:
        return "without dates"
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    return f"{first:%F} to {last:%F}"


def _horizon(grid: Grid, look: Look, asked: Asked, draft: _Draft) -> int:
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
    draft.put(("about", "horizon_steps"), steps, why)
    return steps


def _windows(grid: Grid, n_steps: int) -> list[int]:
    """Spans of rolling features: part of a season, a season, several; without one a week's, a month's and a quarter's worth of steps."""
    s = grid.season_steps
    wanted = [max(2, s // 4), s, grid.second_season_steps or 4 * s] if s > 1 else [5, 22, 66]
    fitting = [w for w in wanted if w <= n_steps // 12]
    return sorted(set(fitting)) or [3]


# --- sections -------------------------------------------------------------------------------------------------------------------


def _about(look: Look, grid: Grid, target: _Target, draft: _Draft) -> None:
    about = draft.entry["about"]
    first = {
        "description": f"{_what(target, look)}, {grid.n_series} series every {grid.every if not look.integer_time else 'step'}, {_span(look.rows, look.integer_time)}.",
        "every": grid.every,
        "calendar": grid.calendar,
    }
    last = {"season_steps": grid.season_steps} | ({"covariates": {"past": list(target.others)}} if target.others else {})
    integer = {"integer_time": True} if look.integer_time else {}
    draft.entry["about"] = first | integer | {k: about[k] for k in ("target", "horizon_steps")} | last | {"primary_score": about["primary_score"]}
    for key in ("every", "calendar", "season_steps"):
        draft.reasons["about", key] = grid.reasons[key]
    if look.integer_time:
        draft.reasons["about", "integer_time"] = look.reasons.get("time_column", "the columns are steps; series are aligned at their last value")
    if target.others:
        left_out = len(look.values) - 1 - len(target.others)
        draft.reasons["about", "covariates"] = "known up to the cutoff only" + (f"; {left_out} further columns are left out" if left_out else "")


def _what(target: _Target, look: Look) -> str:
    return "Garman-Klass volatility of price bars" if target.column == "gk_vol" and look.bars else f"Column {target.column}"


def _ingest(look: Look, asked: Asked, limits: dict[str, int], kept: Grid, draft: _Draft) -> None:
    source = {"kind": "files", "files": [asked.pattern], **{k: v for k, v in look.source.items() if k != "kind"}, **limits}
    draft.entry["ingest"] = {"source": source}
    for key, reason in look.reasons.items():
        if key in source:
            draft.reasons["ingest", "source", key] = reason
    if "max_rows_per_series" in limits:
        why = f"the newest; {kept.n_series} series of that many rows train in about a minute on 2 cores. Raise it when you have the time"
        draft.reasons["ingest", "source", "max_rows_per_series"] = why
        draft.said.append(f"Capped: the newest {limits['max_rows_per_series']} rows of each series are used (ingest.source.max_rows_per_series).")
    if "max_series" in limits:
        draft.reasons["ingest", "source", "max_series"] = "more would take longer than about a minute; raise it when you have the time"
        draft.said.append(f"Capped: the first {limits['max_series']} series by name are used (ingest.source.max_series).")


def _validate(look: Look, capped: pl.DataFrame, draft: _Draft) -> None:
    draft.put(("validate", "min_rows"), max(1, capped.height // 2), "half of what the files give today; fewer is a broken delivery")
    for column in look.values:
        rule, reason = contract(look.rows[column], price=look.bars and column in bars.PRICES, volume=look.bars and column not in bars.PRICES)
        draft.put(("validate", "columns", column), rule, reason)
    if look.bars:
        pairs = [["high", "low"], ["high", "open"], ["high", "close"], ["open", "low"], ["close", "low"]]
        draft.put(("validate", "rows"), [{"greater_or_equal": pair} for pair in pairs], "what a bar is: high is its greatest price, low its least")


def contract(values: pl.Series, *, price: bool = False, volume: bool = False) -> tuple[dict[str, Any], str]:
    """Bounds for a column with slack, and why. values: everything that was seen of it."""
    known = values.drop_nulls()
    least, most = number(known.min()), number(known.max())
    seen = f"seen {least:.6g} to {most:.6g}"
    rule: dict[str, Any]
    if price:
        rule, why = {"min": 0, "strict_min": True}, f"a price is positive; {seen}, and a trend has no upper bound"
    elif volume and least >= 0:
        rule, why = {"min": 0}, f"not negative; {seen}"
    elif least >= 0 and (least == 0 or most / least >= 10):  # noqa: PLR2004  (spans more than a decade)
        rule, why = {"min": 0, "max": _round(10 * most or 1.0)}, f"{seen}; up to ten times the largest"
    else:
        slack = (most - least) or abs(most) or 1.0
        low = _round(least - slack, up=False)
        rule, why = {"min": max(0, low) if least > 0 else low, "max": _round(most + slack)}, f"{seen}; as much again on either side"
    if least > 0 and rule["min"] == 0:
        rule["strict_min"] = True
    if missing := values.null_count():
        rule["nullable"] = True
        why += f"; {missing} cells are empty"
    return rule, why


def _round(value: float, *, up: bool = True) -> float:
    """To two significant digits, away from what was seen."""
    if value == 0:
        return 0
    unit = 10.0 ** (floor(log10(abs(value))) - 1)
    rounded = (ceil if up else floor)(value / unit) * unit
    return int(rounded) if unit >= 1 else float(f"{rounded:.2g}")


def _features(look: Look, grid: Grid, target: _Target, windows: list[int], capped: pl.DataFrame, walk: budget.Budget, draft: _Draft) -> None:
    s = grid.season_steps
    lags = [
        *range(1, min(6, max(2, walk.min_train_steps // 10)) + 1),
        *([s, 2 * s] if s > 1 else []),
        *([grid.second_season_steps] if grid.second_season_steps else []),
    ]
    spread = max(windows[-1], 4) if windows[-1] <= 200 else max(w for w in windows if w <= 200 or w == windows[0])  # noqa: PLR2004  (longer reacts too slowly)
    listed: list[tuple[dict[str, Any], str]] = [
        (
            {"kind": "lag", "column": "z", "steps": sorted(set(lags))},
            "the last steps" + (", and the same place one and two seasons ago" if s > 1 else ""),
        ),
        ({"kind": "mean", "column": "z", "window_steps": windows}, "levels at several spans; har and window_mean read them, too"),
        ({"kind": "std", "column": "z", "window_steps": [spread]}, "how much it moves at present"),
        ({"kind": "min", "column": "z", "window_steps": [spread]}, ""),
        ({"kind": "max", "column": "z", "window_steps": [spread]}, ""),
    ]
    if look.bars and target.column == "gk_vol":
        steps = sorted({1, *windows[:2]})
        listed.append(({"kind": "abs_return", "column": "close", "steps": steps}, "large moves are followed by large moves"))
        listed.append(({"kind": "negative_return", "column": "close", "steps": steps}, "and losses more so than gains"))
    listed += [({"kind": "value", "column": c}, "as known at the cutoff") for c in target.others]
    if parts := _calendar_parts(grid, look.integer_time, walk):
        listed.append(({"kind": "calendar", "parts": parts}, "in UTC"))
    draft.put(("features", "list"), [spec for spec, _ in listed])
    draft.reasons |= {("features", "list", i): why for i, (_, why) in enumerate(listed) if why}
    within = _silence(capped)
    if within > 5:  # noqa: PLR2004  (the section's default)
        draft.put(("features", "last_within_steps"), within, "runs of steps without a value are longer than 5; 99 of 100 end within these")
    unlike = apart(capped, "__z")
    if unlike > UNLIKE[target.transform]:
        draft.put(
            ("features", "scale"),
            f"z_std_{spread}",
            f"the series' spreads differ {unlike:.0f} fold, so errors are counted in units of each series' own",
        )


def _calendar_parts(grid: Grid, integer_time: bool, walk: budget.Budget) -> list[str]:
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


def _silence(rows: pl.DataFrame) -> int:
    """Steps within which 99 of 100 runs without a value end, at most 60."""
    known = rows.drop_nulls("__z").filter(pl.col("__z").is_finite())
    same = pl.col("series_id") == pl.col("series_id").shift()
    steps = known.select(pl.when(same).then(pl.col("event_time").diff()).alias("d")).drop_nulls()["d"]
    if not len(steps):
        return 0
    counts = steps.to_physical()
    longer = counts.filter(counts > counts.min())
    if len(longer) < 10:  # noqa: PLR2004  (a handful of holes is no habit)
        return 0
    return min(60, int(number(longer.quantile(0.99)) / max(1.0, number(counts.mode().min()))))


def _models(grid: Grid, windows: list[int], walk: budget.Budget, draft: _Draft) -> None:
    s = grid.season_steps
    mean = s if s in windows else windows[min(1, len(windows) - 1)]
    draft.put(("models", "last_value"), {}, "a baseline that a first release must beat: the last value again")
    draft.put(("models", "window_mean"), {"window_steps": mean}, f"a baseline: the mean of {mean} steps")
    if s > 1:
        draft.put(("models", "seasonal_naive"), {}, f"a baseline: the value {s} steps before")
    draft.put(("models", "har"), {"windows_steps": sorted({1, *windows})}, "regression on the means at these spans")
    draft.put(("models", "ridge"), {}, "pooled over the series; the one to beat")
    draft.put(
        ("models", "lightgbm"),
        {"max_rows": budget.LIGHTGBM_ROWS},
        "trees on what ridge leaves over; so many pairs of origin and step are drawn evenly from the history, for about a second a fit",
    )
    if walk.net:
        draft.put(("models", "mlp"), {}, "a small net, about a second a fit")
    else:
        draft.said.append("No net among the models: the history is too short to feed one.")


def _walk(walk: budget.Budget, grid: Grid, kept: Grid, draft: _Draft) -> None:
    draft.put(
        ("train", "n_cutoffs"),
        walk.n_cutoffs,
        f"as many as {kept.n_steps} steps and {kept.n_series} series allow without writing more forecasts than needed",
    )
    aside = ", and no multiple of the season, so that cutoffs fall on all hours" if grid.season_steps > 1 and walk.stride_steps > 1 else ""
    draft.put(("train", "stride_steps"), walk.stride_steps, f"spreads them over what is left of the history{aside}")
    draft.put(
        ("train", "refit_every_cutoffs"),
        walk.refit_every_cutoffs,
        f"{walk.n_refits} refits at about {walk.refit_s:.1f} s each on one core for all models",
    )
    draft.put(("train", "min_train_steps"), walk.min_train_steps, "history before the first cutoff")
    draft.put(("train", "embargo_steps"), 0, "no sign of late corrections in a file")
    draft.put(
        ("promote", "gate_steps"),
        walk.gate_steps,
        f"the newest steps, which no fit or weight sees; {walk.gate_steps - draft.entry['about']['horizon_steps']} cutoffs in them are known to the last step",
    )
    draft.put(("promote", "min_gate_rows"), walk.min_gate_rows, "fewer paired cutoffs decide nothing")
    draft.put(("retrain", "max_age_steps"), walk.max_age_steps, "as old as a fit got in the walk-forward that scored it")
    draft.said.append(
        f"Walk-forward: {walk.n_cutoffs} cutoffs every {walk.stride_steps} steps, {walk.n_refits} refits; the gate has the newest {walk.gate_steps} steps."
    )
    if walk.min_gate_rows < 30:  # noqa: PLR2004  (the test's power is poor below)
        draft.said.append("The gate's rows are few: unless a model is much better than the baseline, promote will say *inconclusive*.")
