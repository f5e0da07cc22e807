"""HTML: the frame of a page, its parts, and escaping.

Pages need no script and no network. The service imports this module, so it uses only the standard
library.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from deployments.console.theme import STYLE
from tasks.core.numbers import format_number

_NUMBER = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?( ?%)?")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


class Image(NamedTuple):
    """A drawn chart. kind: its MIME type."""

    title: str
    kind: str
    content: bytes

    @property
    def address(self) -> str:
        """The whole image as a `data:` address."""
        return f"data:{self.kind};base64,{base64.b64encode(self.content).decode()}"


def render_page(title: str, *parts: Markup) -> str:
    """A whole page."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>\n"
    )


def render_element(name: str, content: object, kind: str = "") -> Markup:
    """`<name class=kind>content</name>`; content that is not Markup is escaped."""
    attribute = f" class={kind}" if kind else ""
    return Markup(f"<{name}{attribute}>{render_text(content)}</{name}>")


def render_text(value: object) -> Markup:
    """A value as people read it, escaped."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("not known")
    if isinstance(value, float):
        return Markup(format_number(value, 4))
    if hasattr(value, "strftime"):
        return Markup(f"{value:%F %R}")
    return Markup(escape(str(value)))


def join_parts(*parts: str) -> Markup:
    """Markup after markup; plain text is escaped."""
    return Markup("".join(map(render_text, parts)))


def render_link(address: str, text: str) -> Markup:
    """A link."""
    return Markup(f"<a href='{escape(address)}'>{escape(text)}</a>")


def render_section(title: str, *parts: Markup) -> Markup:
    """A heading and what follows it."""
    return Markup(f"<section>{render_element('h2', title)}{''.join(parts)}</section>")


def render_details(summary: str, *parts: Markup) -> Markup:
    """Parts that are folded away."""
    return Markup(f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>")


def render_facts(facts: Mapping[str, object]) -> Markup:
    """Names and values, one below the other."""
    rows = (f"<dt>{escape(name)}</dt><dd>{render_text(value)}</dd>" for name, value in facts.items())
    return Markup(f"<dl>{''.join(rows)}</dl>")


def render_table(rows: Sequence[Mapping[str, object]]) -> Markup:
    """A table with the keys of the first row as its head; columns of numbers are aligned right."""
    if not rows:
        return render_element("p", "No rows.", "none")
    names = list(rows[0])
    cells = [[render_text(row[name]) for name in names] for row in rows]
    kinds = ["n" if _is_numeric(column) else "" for column in zip(*cells, strict=True)]
    head = _render_row("th", names, kinds)
    body = "".join(_render_row("td", row, kinds) for row in cells)
    return Markup(f"<div class=wide><table>{head}{body}</table></div>")


def render_list(items: Iterable[Markup], kind: str = "") -> Markup:
    """Items, one below the other."""
    return render_element("ul", Markup("".join(render_element("li", item) for item in items)), kind)


def render_image(image: Image) -> Markup:
    """An image that is part of the page."""
    return Markup(f"<img alt='{escape(image.title)}' src='{image.address}'>")


def _is_numeric(column: Sequence[str]) -> bool:
    known = [text for text in column if text]
    return bool(known) and all(_NUMBER.fullmatch(text) for text in known)


def _render_row(name: str, cells: Sequence[str], kinds: Sequence[str]) -> Markup:
    parts = (render_element(name, cell, kind) for cell, kind in zip(cells, kinds, strict=True))
    return Markup(f"<tr>{''.join(parts)}</tr>")
