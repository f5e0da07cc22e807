"""The forms that read a column as time, ranked by how plausible the times are."""

import re
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.forms import LOCAL, compile_form
from tasks.ingest.times import EXCEL, as_texts, read_written
from tasks.ingest.wizard.inspect.figures import convert_to_float

MIN_READ_FRAC = 0.8  # a column of which more cells are times is a column of times; the rest are faults
NEAR_SCORE = 0.25  # of 3; a reading that is nearer to the best could be the right one
_N_SAMPLE = 60
_DATES = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y",
    "%m.%d.%Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d", "%y/%m/%d",
    "%y.%m.%d", "%m.%d.%y", "%Y%m%d", "%y%m%d", "%d%m%Y", "%m%d%Y", "%d %b %Y", "%d-%b-%Y", "%d/%b/%Y",
    "%d. %b %Y", "%d %b %y", "%d-%b-%y", "%b %d, %Y", "%b %d %Y", "%d%b%Y", "%d%b%y", "%Y-%b-%d",
    "%Y %b %d", "%Y-%j", "%Y%j",
)  # fmt: skip
# no locale writes dates like this
_RARE, _RARE_COST = ("%y/", "%y.", "%y-", "%m.%d", "%m-%d"), 0.3
_WEEKDAYS = ("", "%a, ", "%a ")
_CLOCKS = (
    "%H:%M", "%H:%M:%S", "%H:%M:%S%.f", "%I:%M %p", "%I:%M:%S %p", "%I %p", "%H.%M", "%H.%M.%S", "%H",
    "%Hh", "%Hh%M", "%H%M", "%H%M%S",
)  # fmt: skip
_JOINTS = (" ", "T", ", ", ":", "-", "_", " - ", "/")
_PACKED = ("%Y%m%d", "%y%m%d", "%d%m%Y", "%m%d%Y")
_PERIODS = (
    "%Y-%m", "%Y/%m", "%Y.%m", "%m/%Y", "%m.%Y", "%m-%Y", "%Y%m", "%b %Y", "%b-%Y", "%b/%Y", "%b-%y",
    "%b %y", "%b'%y", "%Y-%b", "%Y %b", "%y-%b", "%b%Y", "%b%y", "%YM%m", "%Y-M%m", "%m/%y", "%m-%y",
    "%G-W%V", "%GW%V", "%G W%V", "%G-W%V-%u", "%GW%V%u", "W%V %G", "W%V-%G", "W%V/%G", "KW%V %G",
    "KW %V/%G", "KW%V/%G", "%G-KW%V", "%GKW%V", "Week %V %G", "%G Week %V",
    "%YQ%q", "%Y-Q%q", "%Y Q%q", "%Y/Q%q", "%Y.Q%q", "Q%q %Y", "Q%q-%Y", "Q%q/%Y", "Q%q'%y", "Q%q %y",
    "Q%q-%y", "Q%q%Y", "%q. Quartal %Y", "%Y", "%Y Y", "FY%Y",
)  # fmt: skip
_INTERVAL = re.compile(r"\s+(?:-|\u2013|\u2014|to|bis)\s+|--|\u2013|/(?=\s*(?:\d{4}-|\d{8}T|P\w))")
# an epoch of the years 1980 to 2100 in each unit; other rising integers are not in these ranges
_EPOCHS = {
    "s": (3.1e8, 4.2e9),
    "ms": (3.1e11, 4.2e12),
    "us": (3.1e14, 4.2e15),
    "ns": (3.1e17, 4.2e18),
}
_EXCEL_DAYS = (20_000, 80_000)  # 1954 to 2119
TIME_NAMES = (
    r"(date|time|datum|zeit|stamp|fecha|jahr|monat|month|year|week|quarter|period|epoch|interval|mtu"
    r"|^at$|^ts$|^ds$|^t$|^when$|^dt$|^day$|^tag$|_at$|_ts$|_dt$|^hour$|^woche|^quartal|^valid)"
)
_SPANS = {  # calendar units: days of the shortest and the longest
    "month": (28, 31),
    "quarter": (90, 92),
    "half": (181, 184),
    "year": (365, 366),
}


@dataclass(frozen=True)
class TimeReading:
    """One form, and the evidence for it.

    read_frac: share of the known cells that are times of this form.
    score: 0 to 3: even spacing, few missing steps, order in the file.
    local: the times; null where a cell is none.
    zoned: whether the cells name an offset.
    """

    form: str
    read_frac: float
    score: float
    local: pl.Series
    zoned: bool


def find_readings(cells: pl.Series, name: str, *, is_first: bool = False) -> list[TimeReading]:
    """The forms that read most of *cells*, the most plausible first.

    cells: as in the file. is_first: whether it is the file's first column.
    """
    if cells.dtype.is_temporal():
        forms = ["iso"] if cells.dtype not in {pl.Time, pl.Duration} else []
    elif cells.dtype == pl.Boolean or not (cells.dtype == pl.String or cells.dtype.is_numeric()):
        forms = []
    else:
        forms = _list_forms(cells)
    readings = [r for form in forms if (r := _read(cells, form)) is not None]
    if not readings:
        return []
    best_frac = max(r.read_frac for r in readings)
    readings = sorted((r for r in readings if r.read_frac == best_frac), key=lambda r: -r.score)
    if cells.dtype.is_temporal() or not _is_all_digits(cells):
        return readings
    is_named = re.search(TIME_NAMES, name.lower()) is not None
    return [
        r
        for r in readings
        if (best_frac == 1 or is_named) and _is_time_of_digits(r, is_named=is_named, is_first=is_first)
    ]


def _list_forms(cells: pl.Series) -> list[str]:
    """Forms that most of a sample of the cells have."""
    known = as_texts(cells).drop_nulls()
    if not len(known):
        return []
    step = max(1, len(known) // _N_SAMPLE)
    sample = [t.strip() for t in known.gather_every(step).to_list()]
    least = MIN_READ_FRAC * len(sample)
    forms = ["iso"] if sum(bool(re.match(compile_form("iso"), t)) for t in sample[:1] or []) else []
    counts: dict[str, int] = {}
    for text in sample:
        for form in _list_forms_of(text):
            counts[form] = counts.get(form, 0) + 1
    listed = [form for form, n in counts.items() if n >= least]
    order = {form: i for i, form in enumerate(listed)}
    return [
        *dict.fromkeys(
            [*forms, *sorted(listed, key=lambda f: (f != "iso", order[f])), *_list_number_forms(cells)]
        )
    ]


def _list_forms_of(text: str) -> list[str]:
    """Every form that *text* has."""
    parts = _INTERVAL.split(text, maxsplit=1)
    if len(parts) == 2 and parts[0][:1].isdigit() and re.search(r"\d", parts[1]):
        end = "/..." if text[len(parts[0])] == "/" else " - ..."
        return [form + end for form in _list_forms_of(parts[0].strip())]
    if re.match(compile_form("iso"), text) or re.match(compile_form("iso_basic"), text):
        return ["iso"]
    forms = [form for form in _PERIODS if re.match(compile_form(form), text)]
    for date in _DATES:
        for weekday in _WEEKDAYS if not text[:1].isdigit() else ("",):
            match = _match_start(weekday + date, text)
            if match is not None:
                forms += _list_clock_forms(weekday + date, text[match:], packed=date in _PACKED)
    return forms


def _match_start(form: str, text: str) -> int | None:
    """Where the date at the start of *text* ends."""
    match = re.match(compile_form(form)[: -len(r"\s*$")], text)
    return match.end() if match else None


def _list_clock_forms(date: str, rest: str, *, packed: bool) -> list[str]:
    if not rest:
        return [date]
    joints = ("", *_JOINTS) if packed else _JOINTS
    starts = [j for j in joints if rest.startswith(j)]
    forms = []
    for joint in starts:
        for clock in ("%H", "%H%M", "%H%M%S") if not joint else _CLOCKS:
            forms += [
                date + joint + clock + zone
                for zone in ("", " %z")
                if re.match(compile_form(clock + zone), rest[len(joint) :])
            ]
    return forms[:2]  # the first is the plainest; the second has another joint


def _list_number_forms(cells: pl.Series) -> list[str]:
    numbers = cells.cast(pl.Float64, strict=False)
    if numbers.null_count() > (1 - MIN_READ_FRAC) * len(cells) + cells.null_count():
        return []
    numbers = numbers.drop_nulls().filter(numbers.drop_nulls().is_finite())
    low, high = (convert_to_float(numbers.quantile(q)) for q in (0.1, 0.9))  # a few cells may be faults
    if numbers.n_unique() < 2:
        return []
    forms = [unit for unit, (least, most) in _EPOCHS.items() if least <= low and high <= most]
    return forms + ([EXCEL] if _EXCEL_DAYS[0] <= low and high <= _EXCEL_DAYS[1] else [])


def _read(cells: pl.Series, form: str) -> TimeReading | None:
    try:
        written = read_written(cells, form)
    except SourceError:
        return None
    n_known = (
        len(cells) - as_texts(cells).null_count()
        if not cells.dtype.is_temporal()
        else len(cells) - cells.null_count()
    )
    n_read = len(cells) - written.local.null_count()
    if n_read < MIN_READ_FRAC * n_known or not n_read:
        return None
    zoned = written.offset_s.null_count() < len(cells) and form not in _EPOCHS
    score = score_times(written.local) - (_RARE_COST if form.startswith(_RARE) else 0.0)
    return TimeReading(form, n_read / n_known, score, written.local, zoned)


def score_times(local: pl.Series) -> float:
    """How plausible times are as the steps of series, 0 to 3.

    One point each for even spacing, for few missing steps, and for the order in the file.
    """
    times = local.drop_nulls().cast(LOCAL)
    steps = times.unique().sort().diff().drop_nulls()
    if not len(steps):
        return 1.0
    counts = steps.value_counts(sort=True)
    modal: timedelta = counts[:, 0][0]
    days = modal.total_seconds() / 86_400
    low, high = next(((a, b) for a, b in _SPANS.values() if a <= days <= b), (days, days))
    lengths = steps.dt.total_seconds(fractional=True) / 86_400
    share = convert_to_float(lengths.is_between(low - 1e-9, high + 1e-9).mean())
    span = convert_to_float(lengths.sum())
    present = min(1.0, (len(steps) + 1) / (span / max((low + high) / 2, 1e-9) + 1))
    signs = times.diff().drop_nulls().dt.total_seconds(fractional=True).sign()
    order = max(convert_to_float((signs >= 0).mean()), convert_to_float((signs <= 0).mean()))
    return share + present + order


def _is_all_digits(cells: pl.Series) -> bool:
    """Whether the cells are plain numbers, so that they need not be times."""
    if cells.dtype.is_numeric():
        return True
    return bool(as_texts(cells).drop_nulls().str.contains(r"^\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$").all())


def _is_time_of_digits(reading: TimeReading, *, is_named: bool, is_first: bool) -> bool:
    """Whether plain numbers are likely to be times."""
    if reading.form in _EPOCHS:
        return True
    if len(reading.local.drop_nulls().unique()) < 2:
        return False
    is_sorted = reading.score >= 2.5
    if reading.form in {EXCEL, "%Y", "%m%Y"} or "%Y%m%d" not in reading.form:
        return is_named or (is_first and is_sorted)
    return True
