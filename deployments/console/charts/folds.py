"""Chart of the folds: training rows, purge, embargo, forecast cutoffs, and the gate's rows."""

from collections.abc import Iterator

from deployments.console.charts.svg import build_image, render_bar, render_label
from deployments.console.html import Image
from deployments.console.theme import AMBER, BAND, BLUE, GRID, MUTED, ORANGE
from tasks.core.folds import WalkForward
from tasks.core.reports.train import PlanReport
from tasks.train.plan import get_window_start

_MAX_FOLDS = 14  # with more rows it is not readable; those between are left out and counted
_MIN_STRIDE = 4.0  # pixels; cutoffs nearer to each other are drawn as one bar
_LEFT, _WIDTH, _ROW, _TOP = 74, 860, 22, 44
_LEGEND = (
    (BLUE, "learns from"),
    (BAND, "purge: horizon not known yet"),
    (AMBER, "embargo"),
    (ORANGE, "cutoffs served"),
    (GRID, "gate's rows"),
)


def draw_folds(plan: PlanReport, title: str) -> Image:
    """A line for each fold, time to the right; the last line is the shipped fit."""
    walk, horizon_steps, n_steps, n = plan.walk, plan.horizon_steps, plan.n_steps, len(plan.folds)
    numbers = (
        list(range(n))
        if n <= _MAX_FOLDS
        else sorted({round(i * (n - 1) / (_MAX_FOLDS - 1)) for i in range(_MAX_FOLDS)})
    )
    unit = _WIDTH / n_steps
    gate_height = _ROW * (len(numbers) + 1) + 6
    parts = [_render_steps(plan.last_origin + 1, n_steps, _TOP - 6, gate_height, GRID, unit)]
    parts += _render_legend()
    for line, k in enumerate(numbers):
        fold, y = plan.folds[k], _TOP + _ROW * line
        parts.append(_render_name(f"fold {k + 1}", y))
        parts += _render_learned(fold.fit_origin, walk, horizon_steps, y, unit)
        first, last = fold.first_origin, fold.last_origin
        served = (
            [(origin, origin + 1) for origin in range(first, last + 1, walk.stride_steps)]
            if unit * walk.stride_steps >= _MIN_STRIDE
            else [(first, last + 1)]
        )
        parts += [_render_steps(start, end, y, 14, ORANGE, unit) for start, end in served]
    y = _TOP + _ROW * len(numbers)
    parts.append(_render_name("shipped", y))
    parts += _render_learned(plan.release_origin, walk, horizon_steps, y, unit)
    foot = (
        f"{n_steps} steps of history, {n} folds, horizon {horizon_steps}, embargo {walk.embargo_steps},"
        f" cutoffs every {walk.stride_steps} steps"
    )
    foot += f"; {n - len(numbers)} folds between are not drawn" if len(numbers) < n else ""
    height = _TOP + _ROW * (len(numbers) + 1) + 34
    parts.append(render_label(foot, _LEFT, height - 10, MUTED))
    return build_image(title, parts, _LEFT + _WIDTH + 10, height)


def _render_learned(
    origin: int, walk: WalkForward, horizon_steps: int, y: float, unit: float
) -> Iterator[str]:
    """Origins whose whole horizon was known, then those of the purge, then those of the embargo."""
    start = get_window_start(origin, walk)
    embargo_from = max(start, origin + 1 - walk.embargo_steps)
    purge_from = max(start, embargo_from - horizon_steps)
    yield _render_steps(start, purge_from, y, 14, BLUE, unit)
    yield _render_steps(purge_from, embargo_from, y, 14, BAND, unit)
    yield _render_steps(embargo_from, origin + 1, y, 14, AMBER, unit)


def _render_legend() -> Iterator[str]:
    x = float(_LEFT)
    for colour, name in _LEGEND:
        yield render_bar(x, 10, 12, 12, colour)
        yield render_label(name, x + 17, 20)
        x += 40 + 6.2 * len(name)


def _render_name(name: str, y: float) -> str:
    return render_label(name, _LEFT - 8, y + 11, end=True)


def _render_steps(first: float, end: float, y: float, height: float, colour: str, unit: float) -> str:
    """Steps first..end-1."""
    return render_bar(_LEFT + first * unit, y, max(end - first, 0) * unit, height, colour)
