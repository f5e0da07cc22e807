"""The picture of a walk: what each fold learns from, what purge and embargo take away, which
cutoffs it serves, where the gate's rows begin.

Written as SVG by hand: the same plan gives the same bytes, and a picture needs no library.
"""

from collections.abc import Iterator

from tasks.core.folds import WalkForward
from tasks.train.plan import FitPlan, get_window_start

INK, MUTED, LEARNS, PURGE, EMBARGO, SERVES, GATE = (
    "#1f2933",
    "#6b7785",
    "#2463a6",
    "#bcd4ee",
    "#f0c27a",
    "#c8641e",
    "#e3e7eb",
)
_MOST_FOLDS = 14  # more rows would not be read; those between are left out and said
_LEAST_STRIDE = 4.0  # cutoffs nearer to each other are drawn as one bar
_LEFT, _WIDTH, _ROW, _TOP = 74, 860, 22, 44
_LEGEND = (
    (LEARNS, "learns from"),
    (PURGE, "purge: horizon not known yet"),
    (EMBARGO, "embargo"),
    (SERVES, "cutoffs served"),
    (GATE, "gate's rows"),
)


def render_folds(plan: FitPlan, walk: WalkForward, horizon_steps: int, n_steps: int) -> str:
    """The plan over *n_steps* of history, a line for each fold, time to the right; the last line
    is the fit that is shipped.
    """
    n = len(plan.folds)
    every = (
        range(n)
        if n <= _MOST_FOLDS
        else sorted({round(i * (n - 1) / (_MOST_FOLDS - 1)) for i in range(_MOST_FOLDS)})
    )
    height = _TOP + _ROW * (len(every) + 1) + 34
    unit = _WIDTH / n_steps
    gate = _render_bar(plan.last_origin + 1, n_steps, _TOP - 6, _ROW * (len(every) + 1) + 6, GATE, unit)
    lines = [gate, *_render_legend()]
    for line, k in enumerate(every):
        fold, y = plan.folds[k], _TOP + _ROW * line
        at = plan.get_fit_origin(fold)
        lines += [_render_label(f"fold {k + 1}", y), *_render_learned(at, walk, horizon_steps, y, unit)]
        apart = unit * walk.stride_steps >= _LEAST_STRIDE
        served = (
            [(o, o + 1) for o in fold.origins.tolist()]
            if apart
            else [(int(fold.origins[0]), int(fold.origins[-1]) + 1)]
        )
        lines += [_render_bar(first, end, y, 14, SERVES, unit) for first, end in served]
    y = _TOP + _ROW * len(every)
    lines += [
        _render_label("shipped", y),
        *_render_learned(plan.release_cutoff, walk, horizon_steps, y, unit),
    ]
    foot = (
        f"{n_steps} steps of history, {n} folds, horizon {horizon_steps}, embargo {walk.embargo_steps},"
        f" cutoffs every {walk.stride_steps} steps"
    )
    foot += f"; {n - len(every)} folds between are not drawn" if len(every) < n else ""
    lines.append(f'<text x="{_LEFT}" y="{height - 10}" fill="{MUTED}">{foot}</text>')
    size = f'width="{_LEFT + _WIDTH + 10}" height="{height}" viewBox="0 0 {_LEFT + _WIDTH + 10} {height}"'
    style = 'font-family="sans-serif" font-size="11"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n<rect width="100%" height="100%"'
        ' fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def _render_learned(at: int, walk: WalkForward, horizon_steps: int, y: float, unit: float) -> Iterator[str]:
    """Origins whose whole horizon was known, then those that the purge keeps from some steps,
    then those that the embargo adds.
    """
    start = get_window_start(at, walk)
    embargo_from = max(start, at + 1 - walk.embargo_steps)
    purge_from = max(start, embargo_from - horizon_steps)
    yield _render_bar(start, purge_from, y, 14, LEARNS, unit)
    yield _render_bar(purge_from, embargo_from, y, 14, PURGE, unit)
    yield _render_bar(embargo_from, at + 1, y, 14, EMBARGO, unit)


def _render_legend() -> Iterator[str]:
    x = float(_LEFT)
    for colour, said in _LEGEND:
        yield (
            f'<rect x="{x:g}" y="10" width="12" height="12" fill="{colour}"/><text x="{x + 17:g}" y="20"'
            f' fill="{INK}">{said}</text>'
        )
        x += 40 + 6.2 * len(said)


def _render_label(said: str, y: float) -> str:
    return f'<text x="{_LEFT - 8}" y="{y + 11:g}" text-anchor="end" fill="{INK}">{said}</text>'


def _render_bar(first: float, end: float, y: float, height: float, colour: str, unit: float) -> str:
    """Steps first..end-1."""
    return (
        f'<rect x="{_LEFT + first * unit:.2f}" y="{y:g}" width="{max(end - first, 0) * unit:.2f}"'
        f' height="{height:g}" fill="{colour}"/>'
    )
