"""Charts of a search: error by trial, the front of error and cost, parameter importances."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deployments.console.charts.svg import build_image, render_bar, render_label
from deployments.console.html import Image
from deployments.console.theme import BLUE, GRID, INK, MUTED, ORANGE
from tasks.core.reports.train import ScoreRow, SearchEntry

Trial = Mapping[str, Any]  # as in search.json, or in the trials.json of its study
Point = tuple[float, float]

_LEFT, _TOP, _WIDTH, _HEIGHT = 80, 40, 640, 320
_RINGED = ", ring: chosen"
_LABELS = {"size": "size of the graph, kB", "latency": "one row, ms"}
_DIVISORS = {"size": 1000.0, "latency": 1.0}
_NO_OBJECTIVES = {"param", "n_trials", "why"}  # keys of an importance that are no objectives


def draw_search(search: SearchEntry) -> Image:
    """The front of error and size where the search weighed both, else the trials."""
    if any("size" in trial for trial in search.trials):
        return draw_front(search.trials, "size", search.chosen.trial)
    return draw_trials(search)


def draw_trials(search: SearchEntry) -> Image:
    """The inner error of each trial, with a ring around the chosen one.

    Lines: the least error so far, and the error before the search.
    """
    trials: Sequence[Trial] = search.trials
    before, chosen = search.inner.error_before, search.chosen.trial
    known = [(i, float(trial["error"])) for i, trial in enumerate(trials, 1) if "error" in trial]
    if not known:
        return _build_chart("trials of the search", [], "trial", [])
    scaled = _build_scale(
        [*(float(i) for i, _ in known), 1.0, float(len(trials))],
        [*(error for _, error in known), *([] if before is None else [before])],
    )
    corners: list[Point] = []
    least = float("inf")
    for i, error in known:
        if error < least:
            corners += [scaled(float(i), least)] if corners else []
            least = error
            corners.append(scaled(float(i), error))
    corners.append(scaled(float(len(trials)), least))
    parts = [_render_line(corners)]
    parts += [_render_dot(scaled(float(i), error), BLUE) for i, error in known]
    parts += [_render_ring(scaled(float(i), error)) for i, error in known if i == chosen]
    if before is not None:
        y = scaled(1.0, before)[1]
        ends = f'x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line {ends} stroke="{MUTED}" stroke-dasharray="4 3"/>')
    low, high = min(error for _, error in known), max(error for _, error in known)
    below = (
        f"trial 1 to {len(trials)}, of which {len(known)} are complete; line: least so far, dashes: before"
        f" the search{_RINGED if chosen else ''}"
    )
    ticks = [(f"{error:.4g}", scaled(1.0, error)[1]) for error in (low, high)]
    return _build_chart("trials of the search", parts, below, ticks)


def draw_front(trials: Sequence[Trial], objective: str, chosen: int | None) -> Image:
    """Each complete trial by *objective* and error, with the Pareto front as a line.

    chosen: number of the trial with a ring.
    """
    complete = [trial for trial in trials if trial["state"] == "complete"]
    points = [(trial[objective], trial["error"]) for trial in complete]
    title = f"error and {objective} of the trials"
    if not points:
        return _build_chart(title, [], _LABELS[objective], [])
    best = [_is_on_front(point, points) for point in points]
    scaled = _build_scale([x for x, _ in points], [y for _, y in points])
    edge = sorted(scaled(*point) for point, is_best in zip(points, best, strict=True) if is_best)
    corners = [
        corner
        for (x, y), after in zip(edge, [*edge[1:], (_LEFT + _WIDTH, 0.0)], strict=True)
        for corner in ((x, y), (after[0], y))
    ]
    parts = [_render_line(corners)]
    parts += [
        _render_dot(scaled(*point), ORANGE if is_best else BLUE)
        for point, is_best in zip(points, best, strict=True)
    ]
    ringed = [
        scaled(*point) for trial, point in zip(complete, points, strict=True) if trial["trial"] == chosen
    ]
    parts += [_render_ring(point) for point in ringed]
    low, high = (pick(x for x, _ in points) / _DIVISORS[objective] for pick in (min, max))
    below = f"{_LABELS[objective]}, {low:.3g} to {high:.3g}; line: the front{_RINGED if ringed else ''}"
    errors = [pick(y for _, y in points) for pick in (min, max)]
    return _build_chart(title, parts, below, [(f"{e:.4g}", scaled(points[0][0], e)[1]) for e in errors])


def draw_importances(rows: Sequence[ScoreRow]) -> Image:
    """Bars: the share of each objective's variance that each parameter explains alone.

    Where too few trials had a parameter, its row has the reason.
    """
    objectives = list(dict.fromkeys(key for row in rows for key in row if key not in _NO_OBJECTIVES))
    left, row_height = 200, 16 * max(1, len(objectives)) + 14
    height = _TOP + row_height * len(rows)
    parts = [
        f'<line x1="{left}" x2="{left}" y1="{_TOP}" y2="{height}" stroke="{GRID}"/>',
        render_label(
            "share of the variance over the trials that the parameter explains alone", left, _TOP - 14
        ),
    ]
    for index, row in enumerate(rows):
        top = _TOP + 10 + index * row_height
        middle = top + (row_height - 14) / 2 + 3
        parts.append(render_label(str(row["param"]), left - 10, middle, end=True))
        if "why" in row:
            parts.append(render_label(f"too few: {row['why']}", left + 6, middle, MUTED))
        for k, objective in enumerate(key for key in objectives if key in row):
            y, share = top + 16 * k, float(row[objective] or 0.0)
            suffix = f" of {objective}" if len(objectives) > 1 else ""
            parts.append(render_bar(left, y, share * _WIDTH, 12, (ORANGE, BLUE)[k]))
            parts.append(render_label(f"{100 * share:.0f} %{suffix}", left + share * _WIDTH + 6, y + 10))
    return build_image("what the search depended on", parts, left + _WIDTH + 110, height + 20)


def _is_on_front(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other point is at most as large in both and smaller in one."""
    x, y = point
    return not any(a <= x and b <= y and (a, b) != point for a, b in points)


def _build_scale(xs: Sequence[float], ys: Sequence[float]) -> Callable[[float, float], Point]:
    """Function from a point to its position in the chart."""
    x0, y0 = min(xs), min(ys)
    x_unit, y_unit = _WIDTH / ((max(xs) - x0) or 1.0), _HEIGHT / ((max(ys) - y0) or 1.0)
    return lambda x, y: (_LEFT + (x - x0) * x_unit, _TOP + _HEIGHT - (y - y0) * y_unit)


def _render_line(corners: Sequence[Point]) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return f'<polyline points="{points}" fill="none" stroke="{ORANGE}" stroke-width="2"/>'


def _render_dot(point: Point, colour: str) -> str:
    return f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="3.5" fill="{colour}"/>'


def _render_ring(point: Point) -> str:
    circle = f'cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="7"'
    return f'<circle {circle} fill="none" stroke="{INK}" stroke-width="1.5"/>'


def _build_chart(title: str, parts: Sequence[str], below: str, ticks: Sequence[tuple[str, float]]) -> Image:
    frame = f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="{GRID}"/>'
    labels = [render_label(text, _LEFT - 10, y + 4, end=True) for text, y in ticks]
    words = [
        render_label("inner error", _LEFT, _TOP - 14),
        render_label(below, _LEFT, _TOP + _HEIGHT + 30, MUTED),
    ]
    return build_image(title, [frame, *words, *labels, *parts], _LEFT + _WIDTH + 30, _TOP + _HEIGHT + 50)
