"""Charts as SVG text: the same figures give the same bytes, and no library is needed."""

from collections.abc import Mapping, Sequence
from html import escape

from deployments.console.html import Image
from deployments.console.theme import BLUE, INK, ORANGE


def build_image(title: str, parts: Sequence[str], width: int, height: int) -> Image:
    """*parts* on white. width, height: pixels."""
    frame = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">\n'
        '<rect width="100%" height="100%" fill="white"/>\n'
    )
    return Image(title, "image/svg+xml", (frame + "\n".join(parts) + "\n</svg>\n").encode())


def render_label(text: str, x: float, y: float, colour: str = INK, *, end: bool = False) -> str:
    """Text that begins at *x*, or ends there; *y* is its base line."""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x:g}" y="{y:g}"{anchor} fill="{colour}">{escape(text, quote=False)}</text>'


def render_bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.2f}" y="{y:g}" width="{width:.2f}" height="{height:g}" fill="{colour}"/>'


def draw_bars(title: str, values: Mapping[str, float]) -> Image:
    """Horizontal bars; the largest value has the full width."""
    largest = max(map(abs, values.values()), default=0.0) or 1.0
    parts = [render_label(title, 8, 20)]
    for index, (name, value) in enumerate(values.items()):
        width, y = 360 * abs(value) / largest, 36 + 22 * index
        parts += [
            render_label(name[:24], 150, y + 12, end=True),
            render_bar(158, y, width, 15, BLUE if value >= 0 else ORANGE),
            render_label(f"{value:.6g}", 164 + width, y + 12),
        ]
    return build_image(title, parts, 640, 34 + 22 * len(values))
