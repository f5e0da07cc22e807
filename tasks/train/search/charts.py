"""Pictures of a search, as SVG by hand: how the error fell from trial to trial, the front of
error and what it costs, and what both depended on.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape

from tasks.train.picture import GATE, INK, LEARNS, MUTED, SERVES

_LEFT, _TOP, _WIDTH, _HEIGHT = 80, 40, 640, 320
_RINGED = ", ring: chosen"
_UNIT = {"size": "size of the graph, kB", "latency": "one row, ms"}
_DIVIDED = {"size": 1000.0, "latency": 1.0}


def render_trials(errors: Sequence[float | None], before: float, chosen: int | None) -> str:
    """The inner error of each trial (None: pruned or refused), the least so far as a line, the
    error before as another; a ring around the trial with number *chosen*.
    """
    known = [(i, e) for i, e in enumerate(errors, 1) if e is not None]
    if not known:
        return _render_chart([], "trial", "inner error", [])
    scaled = _build_scale(
        [float(i) for i, _ in known] + [1.0, float(len(errors))],
        [e for _, e in known] + ([before] if before < float("inf") else []),
    )
    line: list[tuple[float, float]] = []
    least = float("inf")
    for i, e in known:
        if e < least:
            line += [scaled(float(i), least)] if line else []
            least = e
            line.append(scaled(float(i), e))
    line.append(scaled(float(len(errors)), least))
    parts = [
        (
            f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in line)}" fill="none" stroke="{SERVES}"'
            ' stroke-width="2"/>'
        )
    ]
    parts += [_render_dot(scaled(float(i), e), LEARNS) for i, e in known] + [
        _render_ring(scaled(float(i), e)) for i, e in known if i == chosen
    ]
    if before < float("inf"):
        y = scaled(1.0, before)[1]
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{MUTED}"'
            ' stroke-dasharray="4 3"/>'
        )
    ends = [min(e for _, e in known), max(e for _, e in known)]
    return _render_chart(
        parts,
        f"trial 1 to {len(errors)}, of which {len(known)} came to an end; line: least so far, dashes: before"
        f" the search{_RINGED if chosen else ''}",
        "inner error",
        [(f"{e:.4g}", scaled(1.0, e)[1]) for e in ends],
    )


def render_front(
    points: Sequence[tuple[float, float]], best: set[int], objective: str, chosen: int | None
) -> str:
    """Each trial as (*objective*, error); those in *best*, which none beats in both, with the
    edge of what they beat as a line; a ring around *chosen*.
    """
    if not points:
        return _render_chart([], _UNIT[objective], "inner error", [])
    scaled = _build_scale([x for x, _ in points], [y for _, y in points])
    ends = sorted(scaled(*points[i]) for i in best)
    line = [
        corner
        for (x, y), after in zip(ends, [*ends[1:], (_LEFT + _WIDTH, 0.0)], strict=True)
        for corner in ((x, y), (after[0], y))
    ]
    parts = [
        (
            f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in line)}" fill="none" stroke="{SERVES}"'
            ' stroke-width="2"/>'
        )
    ]
    parts += [_render_dot(scaled(x, y), SERVES if i in best else LEARNS) for i, (x, y) in enumerate(points)]
    parts += [] if chosen is None else [_render_ring(scaled(*points[chosen]))]
    low, high = (f(x for x, _ in points) / _DIVIDED[objective] for f in (min, max))
    errors = [min(y for _, y in points), max(y for _, y in points)]
    return _render_chart(
        parts,
        f"{_UNIT[objective]}, {low:.3g} to {high:.3g}; line: the front{'' if chosen is None else _RINGED}",
        "inner error",
        [(f"{e:.4g}", scaled(points[0][0], e)[1]) for e in errors],
    )


def render_importances(rows: Sequence[tuple[str, Mapping[str, float], int]], least: int) -> str:
    """For each parameter the share of each objective's variance that it explains alone, as bars;
    a word where fewer than *least* complete trials drew it.
    """
    objectives = list(dict.fromkeys(o for _, shares, _ in rows for o in shares))
    left, row_height, bar = 200, 16 * max(1, len(objectives)) + 14, 12
    height = _TOP + row_height * len(rows)
    parts = []
    for i, (name, shares, n) in enumerate(rows):
        top = _TOP + 10 + i * row_height
        middle = top + (row_height - 14) / 2 + 3
        parts.append(
            f'<text x="{left - 10}" y="{middle:.1f}" text-anchor="end" fill="{INK}">{escape(name)}</text>'
        )
        if not shares:
            parts.append(
                f'<text x="{left + 6}" y="{middle:.1f}" fill="{MUTED}">too few: {n} complete trials drew it,'
                f" {least} must</text>"
            )
        for k, objective in enumerate(objectives if shares else ()):
            y, width = top + 16 * k, shares[objective] * _WIDTH
            parts.append(
                f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{bar}" fill="{(SERVES, LEARNS)[k]}"/>'
            )
            parts.append(
                f'<text x="{left + width + 6:.1f}" y="{y + 10}" fill="{INK}">{100 * shares[objective]:.0f}'
                f" %{f' of {objective}' if len(objectives) > 1 else ''}</text>"
            )
    frame = f'<line x1="{left}" x2="{left}" y1="{_TOP}" y2="{height}" stroke="{GATE}"/>'
    words = (
        f'<text x="{left}" y="{_TOP - 14}" fill="{INK}">share of the variance over the trials that the'
        " parameter explains alone</text>"
    )
    return _render_page([frame, words, *parts], left + _WIDTH + 110, height + 20)


def _build_scale(xs: Sequence[float], ys: Sequence[float]) -> Callable[[float, float], tuple[float, float]]:
    """Where a point of these lies in the picture."""
    x0, y0 = min(xs), min(ys)
    x_unit, y_unit = _WIDTH / ((max(xs) - x0) or 1.0), _HEIGHT / ((max(ys) - y0) or 1.0)
    return lambda x, y: (_LEFT + (x - x0) * x_unit, _TOP + _HEIGHT - (y - y0) * y_unit)


def _render_dot(at: tuple[float, float], colour: str) -> str:
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.5" fill="{colour}"/>'


def _render_ring(at: tuple[float, float]) -> str:
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="7" fill="none" stroke="{INK}" stroke-width="1.5"/>'


def _render_chart(parts: Sequence[str], below: str, above: str, ticks: Sequence[tuple[str, float]]) -> str:
    width, height = _LEFT + _WIDTH + 30, _TOP + _HEIGHT + 50
    labels = [
        f'<text x="{_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end" fill="{INK}">{said}</text>'
        for said, y in ticks
    ]
    frame = f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="{GATE}"/>'
    words = [
        f'<text x="{_LEFT}" y="{_TOP - 14}" fill="{INK}">{above}</text>',
        f'<text x="{_LEFT}" y="{_TOP + _HEIGHT + 30}" fill="{MUTED}">{below}</text>',
    ]
    return _render_page([frame, *words, *labels, *parts], width, height)


def _render_page(parts: Sequence[str], width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width}'
        f' {height}" font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%"'
        ' fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
