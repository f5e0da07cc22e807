"""Files of many layouts, forms of times, values and names: the wizard and ingest give the right
rows, ask with the right reading among those shown, or refuse with a TidemillError."""

import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import wizard_runs as runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest_runs import run_ingest

from tasks.core.about import About
from tasks.core.errors import TidemillError
from tasks.ingest.params import IngestParams

# A pattern of Python's strftime, and the steps for which it names each step once
FORMS = {
    "%Y-%m-%d %H:%M:%S": "m",
    "%Y-%m-%dT%H:%M": "m",
    "%Y-%m-%d %H:%M:%S+00": "m",
    "%Y-%m-%dT%H:%M:%SZ": "m",
    "%Y%m%dT%H%M%SZ": "m",
    "%d.%m.%Y %H:%M": "m",
    "%d/%m/%Y %H:%M": "m",
    "%m/%d/%Y %I:%M %p": "m",
    "%Y/%m/%d %H:%M": "m",
    "%d-%b-%Y %H:%M": "m",
    "%y%m%d%H%M": "m",
    "%Y%m%d%H": "h",
    "s": "m",
    "ms": "m",
    "us": "m",
    "ns": "m",
    "excel": "m",
    "interval": "m",
    "iso interval": "m",
    "date,time": "m",
    "date,hour": "h",
    "date,hour number": "h",
    "24:00": "h",
    "%Y-%m-%d": "d",
    "%d.%m.%Y": "d",
    "%d/%m/%Y": "d",
    "%m/%d/%Y": "d",
    "%d/%m/%y": "d",
    "%d %B %Y": "d",
    "%b %d, %Y": "d",
    "%Y%m%d": "d",
    "%G-W%V": "w",
    "%Y-%m": "mo",
    "%b-%y": "mo",
    "%Y%m": "mo",
    "%m/%Y": "mo",
    "year,month": "mo",
    "quarter": "q",
    "%Y": "y",
}
EVERY = {"m": ("15m", "30m", "1h"), "h": ("1h",), "d": ("1d",), "w": ("1w",), "mo": ("1mo",), "q": ("1q",)}
LAST_YEAR = 2199
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
NUMBERS = ("plain", "comma", "thousands", "thousands comma", "dollar", "unit", "accounting", "large")
NAMES = ("a", "NA", "007", "7", "S&P 500", "東京", "None", "x y", "9007199254740993", "true", "2023", "null")
COLUMNS = ("sales", "step", "file", "rule", "is_gap", "kwh", "fate", "known_at", "z", "42", "Umsatz (€)")


@dataclass(frozen=True)
class Written:
    """A file and what is in it. rows: {(series, start of the step): value}."""

    text: bytes
    rows: dict[tuple[str, datetime], float]
    n_series: int
    form: str
    numbers: str


@st.composite
def files(draw):
    """A CSV file, and the rows that its writer had in mind."""
    form = draw(st.sampled_from(sorted(FORMS)))
    finest = FORMS[form]
    every = "1y" if finest == "y" else draw(st.sampled_from(EVERY[finest]))
    layout = draw(st.sampled_from(["one", "long", "wide"]))
    numbers = draw(st.sampled_from(NUMBERS))
    several = st.lists(st.sampled_from(NAMES), min_size=2, max_size=3, unique=True)
    names = ["?"] if layout == "one" else draw(several)
    column = draw(st.sampled_from(COLUMNS))
    n = draw(st.integers(60, 140)) if finest in {"d", "w", "mo", "q", "y"} else draw(st.integers(150, 400))
    year = draw(st.integers(2001, 2023)) if finest != "y" else draw(st.integers(1900, 2050))
    month = draw(st.integers(1, 12)) if finest in {"m", "h", "d"} else 1
    start = datetime(year, month, 1, tzinfo=UTC)
    if finest == "w":
        start = datetime.fromisocalendar(year, 1, 1).replace(tzinfo=UTC)
    unit = every.lstrip("0123456789")
    offsets = pl.Series([f"{i * int(every.removesuffix(unit))}{unit}" for i in range(n)])
    steps = [t for t in pl.Series([start] * n).dt.offset_by(offsets) if t.year < LAST_YEAR]
    seed = draw(st.integers(0, 999))
    rows = {}
    for k, name in enumerate(names):
        for i, step in enumerate(steps):
            rows[name, step] = compute_value(numbers, seed, k, i)
    newest_first = draw(st.booleans())
    separator = ";" if "comma" in numbers else draw(st.sampled_from([",", ";"]))
    lines = write_lines(rows, steps, names, layout, form, every, numbers, column, newest_first=newest_first)
    eol = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    quoted = [[f'"{c}"' if separator in c else c for c in line] for line in lines]
    text = eol.join(separator.join(line) for line in quoted) + eol * draw(st.integers(0, 3))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    return Written(text.encode(encoding), rows, len(names), form, numbers)


def compute_value(numbers, seed, k, i):
    scatter = ((i * 7919 + seed * 31 + k * 17) % 1000) / 25
    if numbers == "accounting":
        return round(scatter - 20, 2)
    level = 50 * (1 + k) + scatter
    return round(level * 37.21 if "thousands" in numbers else level + (1e8 if numbers == "large" else 0), 2)


def write_number(value, numbers):
    if numbers == "comma":
        return f"{value:.2f}".replace(".", ",")
    if numbers == "thousands":
        return f"{value:,.2f}"
    if numbers == "thousands comma":
        return f"{value:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")
    if numbers == "accounting":
        return f"({-value:.2f})" if value < 0 else f"{value:.2f}"
    return {"dollar": f"${value:.2f}", "unit": f"{value:.2f} kWh"}.get(numbers, f"{value:.2f}")


def write_times(step, form, every):
    """The cells of one step, in one column or two."""
    epoch = int(step.timestamp())
    end = step + (timedelta(minutes=int(every[:-1])) if every.endswith("m") else timedelta(hours=1))
    special = {
        **{unit: [str(epoch * n)] for unit, n in PER_SECOND.items()},
        "excel": [f"{epoch / 86_400 + 25_569:.6f}"],
        "interval": [f"{step:%d.%m.%Y %H:%M} - {end:%d.%m.%Y %H:%M}"],
        "iso interval": [f"{step:%Y-%m-%dT%H:%M}Z/{end:%Y-%m-%dT%H:%M}Z"],
        "date,time": [f"{step:%Y-%m-%d}", f"{step:%H:%M}"],
        "date,hour": [f"{step:%Y-%m-%d}", f"{step.hour}"],
        "date,hour number": [f"{step:%Y-%m-%d}", f"{step.hour + 1}"],
        "24:00": [f"{step:%Y-%m-%d} {step.hour + 1:02}:00"],
        "year,month": [f"{step.year}", f"{step.month}"],
        "quarter": [f"{step.year}Q{(step.month + 2) // 3}"],
    }
    return special.get(form) or [step.strftime(form)]


TIME_HEADERS = {"date,time": ["date", "time"], "date,hour": ["date", "hour"], "year,month": ["year", "month"]}


def write_lines(rows, steps, names, layout, form, every, numbers, column, *, newest_first):
    header = TIME_HEADERS.get(form.replace(" number", ""), ["year" if form == "%Y" else "date"])
    order = steps[::-1] if newest_first else steps
    if layout == "wide":
        lines = [[*header, *names]]
        return lines + [
            [
                *write_times(t, form, every),
                *(write_number(rows[name, t], numbers) for name in names),
            ]
            for t in order
        ]
    lines = [[*header, *(["store"] if layout == "long" else []), column]]
    return lines + [
        [
            *write_times(t, form, every),
            *([name] if layout == "long" else []),
            write_number(rows[name, t], numbers),
        ]
        for t in order
        for name in names
    ]


def read_rows(text):
    """(`right`, rows), or (the question or the refusal, None)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_bytes(text)
        try:
            proposal = runs.proposed(path)
            if proposal.unanswered:
                return " ".join(proposal.unanswered), None
            source = IngestParams.model_validate(proposal.entry["ingest"]).source
            about = About.model_validate(proposal.entry["about"])
            ingested = run_ingest(Path(folder) / "source", {"x.csv": path}, source, about)
        except TidemillError as error:
            return str(error), None
    return "right", ingested.rows


def judge(written):
    """`right`, or the question or refusal; raises AssertionError for wrong rows."""
    judgement, rows = read_rows(written.text)
    if rows is not None:
        check_rows(rows, written)
    return judgement


def check_judgement(judgement):
    """A question or a refusal names the file, or a column and the option that answers it."""
    assert judgement == "right" or re.search(r"x\.csv|olumn '|`--|The history has", judgement), judgement


def check_rows(rows, written):
    values = [c for c in rows.columns if c not in {"series_id", "event_time", "known_at"}]
    assert len(values) == 1, values
    got = {(s, t): v for s, t, v in rows.select("series_id", "event_time", *values).iter_rows()}
    truth = written.rows if written.n_series > 1 else {("x", t): v for (_, t), v in written.rows.items()}
    assert sorted(got.keys() ^ truth.keys())[:3] == []
    assert all(abs(got[key] - value) <= 1e-9 * max(1, abs(value)) for key, value in truth.items())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(files())
def test_a_file_is_right_asked_or_refused(written):
    check_judgement(judge(written))


JUNK = (
    "",
    "oops",
    "Total",
    "2023-13-45",
    "inf",
    "-999",
    "1.2.3",
    "NaN",
    '"',
    "0x1f",
    "99:99",
    "-",
    " ",
    "1e400",
    "\U0001f30a",
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(files(), st.integers(0, 10**6), st.sampled_from(JUNK))
def test_a_broken_cell_is_refused_or_leaves_the_other_rows_as_they_are(written, position, junk):
    """Never a traceback, and no other row changes."""
    lines = re.split(
        "\r\n|\n|\r", written.text.decode("utf-16" if written.text[:2] == b"\xff\xfe" else "utf-8-sig")
    )
    row = 1 + position % (len(written.rows) // written.n_series - 2)
    separator = next(c for c in (";", ",") if c in lines[0])
    cells = lines[row].split(separator)
    cells[position % len(cells)] = junk
    broken = [*lines[:row], separator.join(cells), *lines[row + 1 :]]
    judgement, rows = read_rows("\n".join(broken).encode())
    check_judgement(judgement)
    if rows is not None and rows["series_id"].n_unique() == written.n_series:
        values = [c for c in rows.columns if c not in {"series_id", "event_time", "known_at"}]
        got = {(s, t): v for s, t, v in rows.select("series_id", "event_time", values[0]).iter_rows()}
        truth = written.rows if written.n_series > 1 else {("x", t): v for (_, t), v in written.rows.items()}
        wrong = [key for key, value in truth.items() if got.get(key) is None or abs(got[key] - value) > 1e-6]
        assert len(wrong) <= 1 + written.n_series, wrong[:3]


@pytest.mark.chaos
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(files())
def test_thousands_of_files_are_right_asked_or_refused(written):
    check_judgement(judge(written))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
@pytest.mark.parametrize("newest_first", [False, True])
def test_a_year_of_a_zones_clock_is_a_year_of_moments(zone, newest_first, tmp_path):
    """Half hours of a year as the zone's clock shows them, repeats included."""
    first = datetime(2023, 1, 1, tzinfo=UTC)
    moments = [first + i * timedelta(minutes=30) for i in range(2 * 24 * 365)]
    lines = [f"{t.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M},{i}.5" for i, t in enumerate(moments)]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["at,kwh", *(lines[::-1] if newest_first else lines)]))
    proposal = runs.proposed(path, time_zone=zone)
    rows = runs.ingested(runs.made_current(tmp_path, proposal)).sort("event_time")
    assert rows["event_time"].to_list() == moments
    assert rows["kwh"].to_list() == [i + 0.5 for i in range(len(moments))]
    assert not any("missing" in fact or "repeat" in fact for fact in proposal.facts)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Pacific/Auckland"])
@pytest.mark.parametrize("form", ["dates", "offsets", "UTC"])
def test_a_day_of_a_zone_is_its_date_and_known_at_its_end(zone, form, tmp_path):
    days = [datetime(2023, 1, 2, tzinfo=UTC) + timedelta(days=i) for i in range(400)]
    local = [d.replace(tzinfo=ZoneInfo(zone)) for d in days]
    shown = {
        "dates": [f"{d:%Y-%m-%d}" for d in days],
        "offsets": [d.isoformat() for d in local],
        "UTC": [f"{d.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for d in local],
    }[form]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["at,kwh", *(f"{t},{i % 7}.5" for i, t in enumerate(shown))]))
    proposal = runs.proposed(path, time_zone=zone)
    rows = runs.ingested(runs.made_current(tmp_path, proposal))
    assert rows["event_time"].to_list() == days
    ends = [(d + timedelta(days=1)).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for d in days]
    assert rows["known_at"].to_list() == ends
    delay = timedelta(days=1, seconds=proposal.entry["about"].get("publish_delay_s", 0))
    assert (rows["known_at"] <= rows["event_time"] + delay).all()
