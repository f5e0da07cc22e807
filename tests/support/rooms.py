"""The drawn picture of the rooms: `python tests/support/rooms.py` writes it, a test compares it."""

import importlib
import textwrap
import tomllib
from html import escape
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DRAWING = ROOT / "docs/how-it-works/rooms.svg"
WIDTH, MARGIN, GAP, BOX, LINE = 1240, 20, 10, 62, 26  # pixels; LINE: a room alone in its layer
CHARS_OF_PX = 0.17  # of the small letters
STYLE = (
    "text{font-family:system-ui,sans-serif;fill:#1b2733}.n{font-size:14px;font-weight:600}"
    ".p{font-size:10.5px;fill:#44566a}.layer{fill:#f3f6f9;stroke:#d5dee7}.room{fill:#fff;stroke:#7d93a8}"
    "[data-guest] .room{stroke-dasharray:4 3}.way{stroke:#0b7a75;stroke-width:1.6;fill:none;"
    "marker-end:url(#tip)}.out{font-size:10.5px;fill:#0b7a75}"
)


def read_layers():
    """The layers of the import contract, top down, each a list of modules."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [layer.split(" | ") for layer in layers]


def read_way():
    """Stage -> the first thing it writes, in the order of the data."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = {}
    for name, stage in stages.items():
        first = stage["outs"][0]
        outs[name] = (first if isinstance(first, str) else next(iter(first))).replace("${item.model}", "*")
    return outs


def read_purpose(module):
    """The first line of a package's docstring."""
    return importlib.import_module(module).__doc__.strip().splitlines()[0]


def draw_text(x, y, text, kind):
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(text)}</text>'


def draw_box(kind, x, y, width, height):
    return f'<rect class="{kind}" rx="4" x="{x:g}" y="{y:g}" width="{width:g}" height="{height}"/>'


def draw_room(module, x, y, width, height, *, with_purpose=True):
    """A box with the room's name, and its purpose in the lines that fit."""
    parts = [
        f'<g data-room="{module}">{draw_box("room", x, y, width, height)}',
        draw_text(x + 7, y + 18, module.replace(".", "/"), "n"),
    ]
    if with_purpose:
        lines = textwrap.wrap(read_purpose(module), int(width * CHARS_OF_PX))
        parts += [draw_text(x + 7, y + 34 + 13 * i, line, "p") for i, line in enumerate(lines[:2])]
    return "".join(parts) + "</g>"


def draw_long_room(module, x, y, width):
    """A box with the room's name and purpose on one line."""
    return (
        f'<g data-room="{module}">{draw_box("room", x, y, width, LINE)}'
        + draw_text(x + 7, y + 18, module.replace(".", "/"), "n")
        + draw_text(x + 190, y + 17.5, read_purpose(module), "p")
        + "</g>"
    )


def draw_stages(rooms, y):
    """The stages in the order of the data, two rows, each with what it writes."""
    way = read_way()
    names = [room for room in rooms if room.split(".")[1] not in way] + [f"tasks.{name}" for name in way]
    n_columns = -(-len(names) // 2)
    width = (WIDTH - 4 * MARGIN - (n_columns - 1) * 3 * GAP) / n_columns
    parts = []
    for i, module in enumerate(names):
        row, column = divmod(i, n_columns)
        x, top = 2 * MARGIN + column * (width + 3 * GAP), y + row * 92
        drawn = draw_room(module, x, top, width, 44, with_purpose=False)
        # `features` has a layer of its own, since a release computes them too: here it is a guest
        parts.append(drawn if module in rooms else drawn.replace("data-room", "data-guest"))
        wrote = way.get(module.split(".")[1], "data/source")
        parts.append(draw_text(x + 7, top + 36, wrote, "out"))
        if column:
            parts.append(f'<path class="way" d="M{x - 3 * GAP:g} {top + 22} H{x - 3:g}"/>')
        elif row:
            end = 2 * MARGIN + (n_columns - 1) * (width + 3 * GAP) + width / 2
            parts.append(f'<path class="way" d="M{end:g} {y + 44} V{y + 68} H{x + width / 2:g} V{top - 3}"/>')
    return "".join(parts)


def draw():
    """The whole picture, as SVG."""
    parts, y = [], MARGIN + 26
    for layer in read_layers():
        is_stages = len(layer) > 6
        height = 176 if is_stages else 2 * GAP + (BOX if len(layer) > 1 else LINE)
        parts.append(
            f'<g data-layer="{" ".join(layer)}">{draw_box("layer", MARGIN, y, WIDTH - 2 * MARGIN, height)}'
        )
        if is_stages:
            parts.append(draw_stages(layer, y + 16))
        elif len(layer) == 1:
            parts.append(draw_long_room(layer[0], 2 * MARGIN, y + GAP, WIDTH - 4 * MARGIN))
        else:
            width = (WIDTH - 4 * MARGIN - (len(layer) - 1) * GAP) / len(layer)
            parts += [
                draw_room(room, 2 * MARGIN + i * (width + GAP), y + GAP, width, BOX)
                for i, room in enumerate(layer)
            ]
        parts.append("</g>")
        y += height + GAP
    head = draw_text(
        MARGIN, MARGIN + 8, "A room imports from the rooms below it, never from one above or next to it.", "p"
    ) + draw_text(700, MARGIN + 8, "Arrows: the data, from stage to stage. Green: what each writes.", "out")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + MARGIN}" role="img"'
        ' aria-label="The rooms of the code and the path of the data">'
        f'<style>{STYLE}</style><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#0b7a75"/></marker></defs>'
        f'<rect width="100%" height="100%" fill="#fff"/>{head}{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    DRAWING.write_text(draw())
