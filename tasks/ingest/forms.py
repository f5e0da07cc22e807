"""The forms in which times are written, each as one regular expression.

A form is `iso`, or a strptime pattern. In addition to strptime's directives there are `%q` (a
quarter), `%N` (the number of a step within its day, from 1), and a form that ends in `...`: an
interval, whose end is not read.
"""

import re
from functools import lru_cache
from typing import NamedTuple

import polars as pl

from tasks.core.errors import SourceError

LOCAL = pl.Datetime("us")
FIRST_YEAR, LAST_YEAR = 1900, 2200  # other years are no times of files or feeds
_PIVOT = 69  # two digits from here on are of the last century, as in POSIX
_LAST_STEP_OF_DAY = 100  # quarters of an hour on a day of 25 hours
_ZONE = r"(?P<zone>[Zz]|UTC|GMT|CET|CEST|EET|EEST|WET|WEST|EST|EDT|CDT|MDT|PST|PDT|JST|[+-]\d{2}(?::?\d{2})?)"
_ZONE_HOURS = {
    "CET": 1,
    "CEST": 2,
    "EET": 2,
    "EEST": 3,
    "WEST": 1,
    "EST": -5,
    "EDT": -4,
    "CDT": -5,
    "MDT": -6,
    "PST": -8,
    "PDT": -7,
    "JST": 9,
}
_WORD = r"[^\W\d_]+\.?"
_ISO = (
    r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})(?:(?:T|\s+)(?P<hour>\d{1,2})"
    rf"(?::(?P<minute>\d{{2}})(?::(?P<second>\d{{2}})(?:[.,](?P<fraction>\d+))?)?)?\s*(?:{_ZONE})?)?"
)
_ISO_BASIC = (
    r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})T(?P<hour>\d{2})"
    rf"(?:(?P<minute>\d{{2}})(?:(?P<second>\d{{2}})(?:[.,](?P<fraction>\d+))?)?)?\s*(?:{_ZONE})?"
)
_NUMBERS = {  # directive -> field, digits
    "Y": ("year", "4"),
    "y": ("short_year", "2"),
    "m": ("month", "1,2"),
    "d": ("day", "1,2"),
    "e": ("day", "1,2"),
    "j": ("day_of_year", "1,3"),
    "H": ("hour", "1,2"),
    "I": ("hour", "1,2"),
    "M": ("minute", "1,2"),
    "S": ("second", "1,2"),
    "G": ("iso_year", "4"),
    "V": ("week", "1,2"),
    "u": ("weekday", "1"),
    "q": ("quarter", "1"),
    "N": ("step_number", "1,3"),
}
_TEXTS = {
    "b": rf"(?P<month_name>{_WORD})",
    "B": rf"(?P<month_name>{_WORD})",
    "a": _WORD,
    "A": _WORD,
    "p": r"(?P<half>[AaPp]\.?\s?[Mm]\.?)",
    "z": _ZONE,
    "Z": _ZONE,
    "f": r"(?P<fraction>\d+)",
    "%": "%",
}
_COMPOUND = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M", "%D": "%m/%d/%y", "%#z": "%z", "%h": "%b"}
INTERVAL_END = "..."
_SEPARATORS = r"(?:/|--|(?:-|\u2013|\u2014|to|bis)\s+|\u2013)"
# the first letters of the months' names in five languages
_MONTH_NAMES = {
    1: "jan january januar janv janvier ene enero gen gennaio januari",
    2: "feb february februar fev févr février fevrier febrero febbraio februari",
    3: "mar march mär mrz märz maerz mars marzo maart mrt",
    4: "apr april avr avril abr abril aprile",
    5: "may mai mayo mag maggio mei",
    6: "jun june juni juin junio giu giugno",
    7: "jul july juli juil juillet julio lug luglio",
    8: "aug august aoû août aout ago agosto augustus",
    9: "sep sept september septembre septiembre set settembre",
    10: "oct october okt oktober octobre octubre ott ottobre",
    11: "nov november novembre noviembre",
    12: "dec december dez dezember déc décembre decembre dic diciembre dicembre",
}
MONTH_OF_NAME = {name: month for month, names in _MONTH_NAMES.items() for name in names.split()}


class WrittenTimes(NamedTuple):
    """Times as cells write them; null where a cell has none.

    local: the clock as written.
    offset_s: seconds by which it is ahead of UTC; null where a cell names no offset.
    step_number: of `%N`, else null.
    """

    local: pl.Series
    offset_s: pl.Series
    step_number: pl.Series


def parse_form(texts: pl.Series, form: str) -> WrittenTimes:
    """The times of *texts* that are written in *form*.

    Raises SourceError for a form that is no pattern.
    """
    start = _strip_interval(form)
    suffix = INTERVAL_END if form.endswith(INTERVAL_END) else ""
    forms = ("iso", "iso_basic") if start == "iso" else (start,)
    parsed = [_parse_regex(texts, compile_form(f + suffix)) for f in forms]
    first = parsed[0]
    for other in parsed[1:]:
        first = WrittenTimes(*(a.zip_with(a.is_not_null(), b) for a, b in zip(first, other, strict=True)))
    return first


def compile_form(form: str) -> str:
    """The regular expression of a form. Raises SourceError for one that is no pattern."""
    if form.endswith(INTERVAL_END):
        return rf"(?i)^\s*{_compile_pattern(_strip_interval(form))}\s*{_SEPARATORS}.*\d.*$"
    return rf"(?i)^\s*{_compile_pattern(form)}\s*$"


def _strip_interval(form: str) -> str:
    """The form of the interval's start."""
    return re.sub(r"(?:/|--|-|\u2013|\u2014|to|bis)?\s*\.\.\.$", "", form).strip()


def has_clock(form: str) -> bool:
    """Whether times of a pattern have an hour."""
    return any(directive in form for directive in ("%H", "%I", "%T", "%R", "%N"))


@lru_cache(maxsize=1_000)
def _compile_pattern(form: str) -> str:
    if form in {"iso", "iso_basic"}:
        return _ISO if form == "iso" else _ISO_BASIC
    for short, long in _COMPOUND.items():
        form = form.replace(short, long)
    tokens = re.findall(r"%\.f|%\.\d?f|%-?[A-Za-z%]|\s+|[^%\s]|%", form)
    parts, fields = [], set()
    for index, token in enumerate(tokens):
        if not token.startswith("%"):
            is_optional = tokens[index + 1 : index + 2] in (["%z"], ["%p"], ["%Z"])
            parts.append((r"\s*" if is_optional else r"\s+") if token.isspace() else re.escape(token))
            continue
        name = token[-1]
        if token.startswith("%."):
            parts.append(r"(?:[.,](?P<fraction>\d+))?")
        elif name in _NUMBERS:
            field, digits = _NUMBERS[name]
            # an hour that begins packed digits may have one: 900 is 09:00
            is_packed = _is_number(tokens[max(0, index - 1) : index]) or (
                name not in "HI" and _is_number(tokens[index + 1 : index + 2])
            )
            parts.append(rf"(?P<{field}>\d{{{digits[-1] if is_packed else digits}}})")
            if name == "M" and is_packed and tokens[index - 2 : index] == [" ", "%H"]:
                # a clock as a whole number: 0, 30, 900, 2345
                parts[-2:] = [r"(?P<hour>\d{1,2})?", r"(?P<minute>\d{2}|\b0)"]
            fields.add(field)
        elif name in _TEXTS:
            parts.append(_TEXTS[name])
        else:
            parts.append("")
    regex = "".join(parts)
    names = re.findall(r"\(\?P<(\w+)>", regex)
    if not names or len(names) != len(set(names)) or "%" in form.replace("%%", "")[-1:] or "" in parts:
        raise SourceError(
            f"`time_format` {form!r} is no strptime pattern that can be read, for example `%d.%m.%Y %H:%M`;"
            " it names a year, and each part once."
        )
    return regex


def _is_number(tokens: list[str]) -> bool:
    return any(t.startswith("%") and t[-1] in _NUMBERS for t in tokens)


def _parse_regex(texts: pl.Series, regex: str) -> WrittenTimes:
    names = re.findall(r"\(\?P<(\w+)>", regex)
    groups = texts.cast(pl.String).str.extract_groups(regex).struct.unnest()
    groups.columns = names
    numbers = groups.select(
        pl.col(c).cast(pl.Int64, strict=False)
        for c in names
        if c not in {"month_name", "half", "zone", "fraction"}
    )
    columns = set(names)
    frame = numbers.with_columns(groups.select(sorted(columns & {"month_name", "half", "zone", "fraction"})))
    frame = frame.select(**_build_fields(columns))
    is_day = (
        pl.col("year").is_between(FIRST_YEAR, LAST_YEAR - 1)
        & pl.col("month").is_between(1, 12)
        & pl.col("day").is_between(1, 31)
    )
    is_clock = pl.col("hour").is_between(0, 24) & (pl.col("minute") < 60) & (pl.col("second") < 60)
    is_whole = (pl.col("hour") < 24) | ((pl.col("minute") == 0) & (pl.col("second") == 0))
    frame = frame.with_columns(ok=is_day & is_clock & is_whole)
    year, month = (pl.when("ok").then(c) for c in ("year", "month"))
    first = pl.datetime(year, month, pl.lit(1), time_unit="us")
    day = first + pl.duration(days=pl.col("day") - 1)
    is_in_month = day.dt.month() == pl.col("month")
    clock = pl.duration(
        hours="hour", minutes="minute", seconds="second", microseconds="micro", days="later_days"
    )
    result = frame.select(
        local=pl.when(is_in_month).then(day + clock).cast(LOCAL),
        offset_s=pl.when(is_in_month).then("offset_s").cast(pl.Int64),
        step_number=pl.when(is_in_month).then("step_number").cast(pl.Int64),
    )
    return WrittenTimes(*result.get_columns())


def _build_fields(columns: set[str]) -> dict[str, pl.Expr]:
    """Year, month, day, clock and offset from the groups of a form."""
    zero, one = pl.lit(0, pl.Int64), pl.lit(1, pl.Int64)
    fields = {
        "year": zero,
        "month": one,
        "day": one,
        "hour": zero,
        "minute": zero,
        "second": zero,
        "micro": zero,
        "later_days": zero,
        "offset_s": pl.lit(None, pl.Int64),
        "step_number": pl.lit(None, pl.Int64),
    }
    fields |= {c: pl.col(c).fill_null(fields[c]) for c in columns & set(fields)}
    if "short_year" in columns:
        short = pl.col("short_year")
        fields["year"] = short + pl.when(short >= _PIVOT).then(1900).otherwise(2000)
    if "month_name" in columns:
        name = pl.col("month_name").str.to_lowercase().str.strip_chars(".")
        fields["month"] = name.replace_strict(MONTH_OF_NAME, default=None, return_dtype=pl.Int64)
    if "quarter" in columns:
        fields["month"] = 3 * pl.col("quarter") - 2
    if "half" in columns:
        is_late = pl.col("half").str.to_lowercase().str.starts_with("p")
        valid = pl.col("hour").is_between(1, 12)
        fields["hour"] = pl.when(valid).then(pl.col("hour") % 12 + 12 * is_late.cast(pl.Int64))
    if "fraction" in columns:
        fields["micro"] = pl.col("fraction").str.pad_end(6, "0").str.head(6).cast(pl.Int64).fill_null(0)
    if "day_of_year" in columns:
        fields["later_days"] = pl.col("day_of_year") - 1
    if "step_number" in columns:
        fields["step_number"] = pl.when(pl.col("step_number") <= _LAST_STEP_OF_DAY).then("step_number")
    if "week" in columns:
        fields |= _build_week_fields(columns)
    if "zone" in columns:
        fields["offset_s"] = _build_offset()
    return fields


def _build_week_fields(columns: set[str]) -> dict[str, pl.Expr]:
    """The Monday of an ISO week: counted from the week that has January 4."""
    year = pl.col("iso_year" if "iso_year" in columns else "year")
    fourth = pl.date(year, 1, 4)
    weekday = pl.col("weekday") if "weekday" in columns else pl.lit(1, pl.Int64)
    n_weeks = pl.date(year, 12, 28).dt.week()
    days = 3 + (pl.col("week") - 1) * 7 - (fourth.dt.weekday().cast(pl.Int64) - 1) + weekday - 1
    return {
        "year": year,
        "month": pl.when(pl.col("week").is_between(1, n_weeks)).then(1),
        "later_days": days,
    }


def _build_offset() -> pl.Expr:
    """Seconds ahead of UTC, from `Z`, a few names, `+01`, `+0100` or `+01:00`."""
    zone = pl.col("zone").str.to_uppercase()
    named = zone.replace_strict({"Z": 0, "UTC": 0, "GMT": 0, "WET": 0} | _ZONE_HOURS, default=None) * 3600
    digits = zone.str.replace(":", "", literal=True)
    sign = pl.when(digits.str.starts_with("-")).then(-1).otherwise(1)
    hours = digits.str.slice(1, 2).cast(pl.Int64, strict=False)
    minutes = digits.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0)
    return pl.coalesce(named, sign * (hours * 3600 + minutes * 60))
