"""What is shown is escaped once, and a page needs nothing from elsewhere."""

import re
from datetime import UTC, datetime

from deployments.console.html import (
    Image,
    Markup,
    join_parts,
    render_element,
    render_facts,
    render_image,
    render_link,
    render_page,
    render_section,
    render_table,
)

EVIL = "<script>'\"&"


def test_text_is_escaped_in_every_part_and_markup_is_not_escaped_again():
    image = Image(EVIL, "image/png", b"x")
    page = render_page(
        EVIL,
        render_element("p", EVIL),
        render_section(EVIL, render_facts({EVIL: EVIL})),
        render_table([{EVIL: EVIL}]),
        render_link(EVIL, EVIL),
        render_image(image),
        join_parts(EVIL, render_element("b", "bold")),
    )
    assert "<script" not in page
    assert "&amp;lt;" not in page
    assert "<b>bold</b>" in page


def test_a_page_needs_nothing_from_elsewhere():
    page = render_page("t", render_image(Image("t", "image/svg+xml", b"<svg/>")))
    assert re.findall(r"(?:src|href|url\()=?['\"]?([^'\" )]*)", page) == [
        "data:image/svg+xml;base64,PHN2Zy8+"
    ]


def test_values_are_shown_as_people_read_them():
    time = datetime(2024, 1, 2, 3, 4, tzinfo=UTC)
    shown = render_facts({"a": None, "b": 0.123456, "c": time, "d": Markup("<i>x</i>")})
    assert re.findall("<dd>(.*?)</dd>", shown) == ["not known", "0.1235", "2024-01-02 03:04", "<i>x</i>"]


def test_columns_of_numbers_are_aligned_right_with_their_head():
    table = render_table([{"name": "a", "n": "1,234", "mixed": 1.5}, {"name": "b", "n": "", "mixed": "x"}])
    assert re.findall("<th[^>]*>", table) == ["<th>", "<th class=n>", "<th>"]
    assert re.findall("<td[^>]*>", table) == ["<td>", "<td class=n>", "<td>"] * 2


def test_a_table_without_rows_says_so():
    assert "No rows." in render_table([])
