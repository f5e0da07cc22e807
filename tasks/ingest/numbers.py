"""Parsing the cells of a column of numbers: the wizard and ingest use it."""

import re
from typing import NamedTuple

import polars as pl

from tasks.ingest.cells import NULLS

SPACES = " \u00a0\u202f\u2009"  # of which any separates thousands if one does
APOSTROPHES = "'\u2019"
BOOLEANS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


class NumberForm(NamedTuple):
    """How a file writes numbers.

    decimal: its decimal sign. thousands: what groups digits; empty if nothing does.
    affixes: currencies and units around numbers, which are not read.
    missing: numbers that mean that a value is missing.
    """

    decimal: str = "."
    thousands: str = ""
    affixes: tuple[str, ...] = ()
    missing: tuple[float, ...] = ()


def parse_numbers(cells: pl.Series, form: NumberForm) -> pl.Series:
    """The cells as float64; null for a cell that is empty, means null or is no number.

    `true`, `yes` are 1 and `false`, `no` are 0. A number in parentheses is negative.
    """
    if cells.dtype == pl.String:
        numbers = _parse_texts(cells, form)
    elif cells.dtype.is_numeric() or cells.dtype in {pl.Boolean, pl.Null}:
        numbers = cells.cast(pl.Float64)
    else:
        numbers = pl.Series(cells.name, [None], dtype=pl.Float64).new_from_index(0, len(cells))
    numbers = numbers.fill_nan(None)
    for value in form.missing:
        numbers = numbers.set((numbers == value).fill_null(value=False), None)
    return numbers.alias(cells.name)


def is_empty(cells: pl.Series) -> pl.Series:
    """Which cells are empty or mean null."""
    return (
        cells.is_null() | cells.str.strip_chars().is_in(sorted(NULLS)).fill_null(value=False)
        if cells.dtype == pl.String
        else cells.is_null()
    )


def build_number_regex(form: NumberForm) -> str:
    """What a number looks like once its affixes are off."""
    decimal = re.escape(form.decimal)
    groups = {" ": f"[{SPACES}]", "'": f"[{APOSTROPHES}]"}.get(form.thousands, re.escape(form.thousands))
    whole = rf"\d{{1,3}}(?:{groups}\d{{2,3}})*{groups}\d{{3}}|\d+" if form.thousands else r"\d+"
    return rf"^[+-]?(?:(?:{whole})(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?$"


def strip_affixes(texts: pl.Series, affixes: tuple[str, ...]) -> pl.Series:
    """The texts without currencies and units; parentheses and a sign at the end become a minus."""
    texts = texts.str.strip_chars().str.replace_all("\u2212", "-", literal=True)
    if affixes:
        names = "|".join(re.escape(a) for a in sorted(affixes, key=len, reverse=True))
        texts = texts.str.replace(rf"^([(+-]?)\s*(?:{names})\s*", "${1}")
        texts = texts.str.replace(rf"\s*(?:{names})\s*(\)?)$", "${1}")
    return texts.str.replace(r"^\(\s*([^-].*?)\s*\)$", "-${1}").str.replace(r"^(\d.*)-$", "-${1}")


def _parse_texts(cells: pl.Series, form: NumberForm) -> pl.Series:
    texts = cells.set(is_empty(cells), None)
    is_plain = form.decimal == "." and not form.thousands
    numbers = texts.cast(pl.Float64, strict=False) if is_plain else None
    if numbers is not None and numbers.null_count() == texts.null_count():
        return numbers
    rest = texts if numbers is None else texts.set(numbers.is_not_null(), None)
    bare = strip_affixes(rest, form.affixes)
    bare = bare.set(~bare.str.contains(build_number_regex(form)).fill_null(value=False), None)
    if form.thousands:
        chars = {" ": SPACES, "'": APOSTROPHES}.get(form.thousands, form.thousands)
        bare = bare.str.replace_all(f"[{re.escape(chars)}]", "")
    bare = bare.str.replace(form.decimal, ".", literal=True) if form.decimal != "." else bare
    read = bare.cast(pl.Float64, strict=False)
    booleans = rest.str.to_lowercase().replace_strict(BOOLEANS, default=None, return_dtype=pl.Float64)
    words = rest.str.strip_chars().str.contains(r"(?i)^[+-]?(inf|infinity)$").fill_null(value=False)
    infinite = rest.set(~words, None).cast(pl.Float64, strict=False)
    for more in (read, infinite, booleans):
        numbers = more if numbers is None else numbers.zip_with(numbers.is_not_null(), more)
    return numbers if numbers is not None else read
