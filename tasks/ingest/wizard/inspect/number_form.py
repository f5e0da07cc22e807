"""How the files write numbers: decimal sign, thousands separators, currencies and units."""

import re
from collections.abc import Sequence

import polars as pl

from tasks.ingest.numbers import APOSTROPHES, SPACES, NumberForm, is_empty, parse_numbers, strip_affixes
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, OwnerAnswers
from tasks.ingest.wizard.inspect.time_forms import find_readings

_CURRENCIES = (
    r"[$€£¥₹₽₩₺฿]|[A-Z]{2}\$|USD|EUR|GBP|CHF|JPY|CNY|SEK|NOK|DKK|PLN|CZK|INR|AUD|CAD|Rs\.?|kr\.?|zł|Fr\.?"
)
_UNITS = (
    r"%|‰|°[CFK]|[kMGT]?Wh?|[kM]?VAr?|MWh/h|GWh|[kM]?Hz|[hkM]?Pa|m?bar|ppm|ppb|[munk]?m|cm|km/h|m/s|mph|kn|"
    r"[mµ]?g|kg|t|m[l³3²2]|l|L|dB|lux|lx|ms|s|min|h|[KMG]i?B|pcs|Stk\.?|units?|Stück|items?|St\.?|C|F|K|V|A|mA"
)
_AFFIXED = re.compile(
    rf"^(?P<first>{_CURRENCIES})?\s*\(?[-+\u2212]?\s*(?P<before>{_CURRENCIES})?\s*[-+\u2212]?[\d.,{SPACES}{APOSTROPHES}]*\d[\d.,]*\s*"
    rf"(?P<after>{_CURRENCIES}|{_UNITS})?\s*[-\u2212]?\)?$"
)
_PLAIN = re.compile(r"^-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?$")
_POINT = re.compile(r"\.(?:\d{1,2}|\d{4,})(?:[eE]|$)|^-?0\.|\d{4}\.")  # of which no thousands are
_N_SAMPLE, _N_OF_PLAIN = 300, 20
MIN_FRAC = 0.9  # of a column's cells that must be numbers once the form is right
_SIGNS = f"[.,{SPACES}{APOSTROPHES}]"


def find_number_form(tables: Sequence[FileTable], answers: OwnerAnswers, roles: ColumnRoles) -> NumberForm:
    """The form of the numbers, from all columns of text that could be numbers.

    The fields of the source, reasons, facts and open questions are set.
    """
    first = tables[0]
    columns = {
        name: cells
        for name in first.raw.columns
        if first.raw[name].dtype == pl.String
        and (cells := _list_number_cells(first.raw[name])) is not None
        and not (_is_date_like(cells) and find_readings(first.raw[name], name))
    }
    affixes: dict[str, str] = {}
    for name, cells in columns.items():
        for affix in _list_affixes(cells):
            affixes.setdefault(affix, name)
    bare = {
        name: cells if len(cells) <= _N_OF_PLAIN and not affixes else strip_affixes(cells, tuple(affixes))
        for name, cells in columns.items()
    }
    decimal, thousands = _find_signs(bare, answers, first, roles)
    if affixes:
        roles.source["affixes"] = list(affixes)
        roles.reasons["affixes"] = "around numbers, and not read"
        names = ", ".join(f"{a!r} in column {c!r}" for a, c in affixes.items())
        roles.facts.append(f"Currencies and units around numbers are not read: {names}.")
    if decimal != ".":
        roles.source["decimal"] = decimal
        roles.facts.append(f"Numbers have a decimal {'comma' if decimal == ',' else 'point'}.")
    if thousands:
        roles.source["thousands"] = thousands
        roles.facts.append(f"{thousands!r} groups the digits of numbers.")
    return NumberForm(decimal, thousands, tuple(affixes), answers.missing or ())


def _list_number_cells(cells: pl.Series) -> pl.Series | None:
    """The cells with digits that may be numbers in some form; None if most are not.

    Of plain numbers that leave no doubt a sample is enough.
    """
    sample = cells.head(_N_SAMPLE).drop_nulls()
    if len(sample) and all(map(_PLAIN.match, sample)) and any(map(_POINT.search, sample)):
        return sample.head(_N_OF_PLAIN)
    known = cells.set(is_empty(cells), None).drop_nulls()
    if not len(known):
        return None
    sample = known.head(_N_SAMPLE)
    n = sum(bool(_AFFIXED.match(text)) for text in sample)
    if n < MIN_FRAC * len(sample):
        return None
    has_sign = known.str.contains(_SIGNS) | known.cast(pl.Float64, strict=False).is_null()
    return known if has_sign.any() else None


def _is_date_like(cells: pl.Series) -> bool:
    return bool(
        cells.head(_N_SAMPLE).str.contains(r"^\d{1,4}[./ ]\d{1,2}[./ ]\d{1,4}|^\d{1,2}\.\d{4}$").any()
    )


def _list_affixes(cells: pl.Series) -> list[str]:
    """Currencies and units around the numbers, of a sample."""
    found: dict[str, None] = {}
    if len(cells) <= _N_OF_PLAIN and all(map(_PLAIN.match, cells)):
        return []
    plain = cells.cast(pl.Float64, strict=False)
    for text in cells.filter(plain.is_null()).head(_N_SAMPLE):
        if match := _AFFIXED.match(text):
            found |= {a: None for a in match.groups() if a}
    return list(found) if len(found) <= 2 else []


def _find_signs(
    columns: dict[str, pl.Series], answers: OwnerAnswers, first: FileTable, roles: ColumnRoles
) -> tuple[str, str]:
    """(decimal sign, thousands separator), by evidence over all columns.

    What leaves no doubt counts first: both signs in one number, a sign that occurs twice, or other
    than three digits after a sign.
    """
    if answers.decimal:
        return answers.decimal, answers.thousands or _find_thousands(columns, answers.decimal)
    text = pl.concat([c.rename("") for c in columns.values()]) if columns else pl.Series([], dtype=pl.String)
    signed = text.filter(text.str.contains(_SIGNS))
    if not len(signed):
        return ".", ""
    point_decimal, comma_decimal = _is_decimal(signed, "."), _is_decimal(signed, ",")
    if point_decimal or comma_decimal:
        decimal = "." if point_decimal else ","
        return decimal, _find_thousands(columns, decimal)
    if signed.str.contains(f"[{SPACES}{APOSTROPHES}]").any() and not signed.str.contains(r"[.,]").any():
        return ".", _find_thousands(columns, ".")
    return _decide_three_digits(text, signed, first, roles)


def _is_decimal(signed: pl.Series, sign: str) -> bool:
    """Whether *sign* can only be a decimal sign: it is last and not before three digits."""
    s, other = re.escape(sign), re.escape("," if sign == "." else ".")
    return bool(
        signed.str.contains(rf"^[^{s}]*{s}(?:\d{{0,2}}|\d{{4,}})(?:[eE].*)?$").any()
        or signed.str.contains(rf"{other}[^{s}]*{s}").any()
        or signed.str.contains(rf"^[-+]?0?{s}\d").any()
        or signed.str.contains(rf"\d{{4,}}{s}\d").any()
        or signed.str.contains(rf"[{SPACES}{APOSTROPHES}]\d{{3}}{s}\d").any()
    )


def _find_thousands(columns: dict[str, pl.Series], decimal: str) -> str:
    """What groups digits when *decimal* is the decimal sign; empty if nothing does."""
    for sign, chars in ((",", ","), (".", "."), (" ", SPACES), ("'", APOSTROPHES)):
        if sign == decimal:
            continue
        grouped = rf"^[-+]?\d{{1,3}}(?:[{re.escape(chars)}]\d{{2,3}})*[{re.escape(chars)}]\d{{3}}(?:\D|$)"
        text = pl.concat([c.rename("") for c in columns.values()])
        if text.str.contains(grouped).any():
            return sign
    return ""


def _decide_three_digits(
    text: pl.Series, signed: pl.Series, first: FileTable, roles: ColumnRoles
) -> tuple[str, str]:
    """Every sign is before three digits: thousands, or decimals."""
    sign = "," if signed.str.contains(",", literal=True).any() else "."
    as_thousands = ("." if sign == "," else ",", sign)
    as_decimals = (sign, "")
    s = re.escape(sign)
    if signed.str.contains(rf"{s}\d{{3}}{s}").any():
        return as_thousands
    has_plain = len(signed) < len(text)
    largest_plain = convert_to_float(
        text.filter(~text.str.contains(s)).cast(pl.Float64, strict=False).abs().max()
    )
    # 962 next to 1.197: the plain ones are below a thousand, and fill the range up to it
    is_grouped = has_plain and 100 <= largest_plain < 1000
    if is_grouped or (sign == "," and first.separator == ","):
        best, other = as_thousands, as_decimals
    else:
        best, other = as_decimals, as_thousands
    is_sure = (
        (sign == "." and best == as_decimals and first.separator != ";" and not has_plain)
        or (is_grouped and len(text) - len(signed) >= 0.02 * len(text))
        or (sign == "," and best == as_thousands and first.separator == ",")
    )
    if not is_sure:
        rows = "; ".join(
            f"{cell!r} is {_format_number(cell, best)} or {_format_number(cell, other)}"
            for cell in signed.head(3)
        )
        roles.unanswered.append(
            f"Numbers like {signed[0]!r} have {sign!r} before three digits, which may be a decimal sign or"
            f" group thousands: {rows}. Give `--decimal '{best[0]}'` or `--decimal '{other[0]}'`."
        )
    return best


def _format_number(cell: str, signs: tuple[str, str]) -> str:
    return f"{parse_numbers(pl.Series([cell]), NumberForm(*signs))[0]:.12g}"
