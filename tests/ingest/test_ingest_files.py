"""Every layout and format gives the same rows; what cannot be read is named with its place."""

import gzip
import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from ingest_runs import START, about_of, files_source, fill, hourly, run_ingest
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from tasks.core.errors import SourceError
from tasks.core.frames import REPEATED, SERIES
from tasks.ingest.params import FilesSource, IngestParams
from tasks.ingest.source import build_source

VALUES = [1.5, None, -3.0]
TIMES = [START + timedelta(hours=i) for i in range(3)]
STAMPS = [f"{t:%Y-%m-%d %H:%M:%S}" for t in TIMES]
LONG = "time,value\n" + "".join(
    f"{t},{'' if v is None else v}\n" for t, v in zip(STAMPS, VALUES, strict=True)
)


def ms(t):
    return int(t.timestamp() * 1000)


PARQUET = pl.DataFrame({"time": TIMES, "value": VALUES})
SAME_ROWS = {
    "csv": (LONG, {}),
    "gz": (gzip.compress(LONG.encode()), {}),
    "no header": (
        "".join(LONG.splitlines(keepends=True)[1:]),
        {"header": False, "columns": ("time", "value")},
    ),
    "semicolons, spaces": (LONG.replace(",", "; "), {"separator": ";"}),
    "byte order mark": (b"\xef\xbb\xbf" + LONG.encode(), {}),
    "quotes": (
        '"time","value"\n'
        + "".join(f'"{t}","{"NaN" if v is None else v}"\n' for t, v in zip(STAMPS, VALUES, strict=True)),
        {},
    ),
    "iso with zone": (LONG.replace(" 0", "T0").replace(":00,", ":00Z,"), {}),
    "iso with offset": (
        "time,value\n"
        + "".join(
            f"{t + timedelta(hours=2):%FT%T}+02:00,{v if v is not None else 'null'}\n"
            for t, v in zip(TIMES, VALUES, strict=True)
        ),
        {},
    ),
    "iso to the minute": (LONG.replace(":00,", ","), {}),
    "epoch s": (
        "time,value\n"
        + "".join(f"{ms(t) // 1000},{'' if v is None else v}\n" for t, v in zip(TIMES, VALUES, strict=True)),
        {"time_format": "s"},
    ),
    "epoch ms, fraction of s": (
        "time,value\n"
        + "".join(f"{ms(t)}.0,{'NA' if v is None else v}\n" for t, v in zip(TIMES, VALUES, strict=True)),
        {"time_format": "ms"},
    ),
    "pattern": (
        "time,value\n"
        + "".join(
            f"{t:%d.%m.%Y %H:%M},{'' if v is None else v}\n" for t, v in zip(TIMES, VALUES, strict=True)
        ),
        {"time_format": "%d.%m.%Y %H:%M"},
    ),
    "list of lists": (
        json.dumps([[ms(t), v] for t, v in zip(TIMES, VALUES, strict=True)]),
        {"format": "json", "columns": ("time", "value"), "time_format": "ms"},
    ),
    "list of objects": (
        json.dumps([{"time": t, "value": v} for t, v in zip(STAMPS, VALUES, strict=True)]),
        {"format": "json"},
    ),
    "json lines": (
        "\n".join(json.dumps({"time": t, "value": v}) for t, v in zip(STAMPS, VALUES, strict=True)),
        {"format": "jsonl"},
    ),
    "wide": (LONG.replace("value", "a"), {"layout": "wide", "value_columns": ("a",)}),
    "series column": (
        "time,value,who\n" + "".join(f"{line},a\n" for line in LONG.splitlines()[1:]),
        {"series_column": "who"},
    ),
}


@pytest.mark.parametrize("form", SAME_ROWS)
def test_form_of_a_file_does_not_change_its_rows(form, tmp_path):
    content, more = SAME_ROWS[form]
    got = run_ingest(tmp_path, {"feed": content}, files_source(**{"series_id": "a", **more}))
    assert_frame_equal(got.rows, SERIES.conform(hourly(VALUES)))


def test_parquet_gives_the_same_rows(tmp_path):
    PARQUET.write_parquet(tmp_path / "feed.parquet")
    got = run_ingest(
        tmp_path / "source",
        {"feed.parquet": tmp_path / "feed.parquet"},
        files_source(format="parquet", series_id="a"),
    )
    assert_frame_equal(got.rows, SERIES.conform(hourly(VALUES)))


def test_series_come_from_the_file_names_or_a_pattern(tmp_path):
    files = {"north-2024.csv": LONG, "south-2024.csv": LONG}
    stems = run_ingest(tmp_path / "1", files, files_source(series_from="file_stem"))
    groups = run_ingest(tmp_path / "2", files, files_source(series_pattern=r"^(\w+)-"))
    assert stems.rows["series_id"].unique().sort().to_list() == ["north-2024", "south-2024"]
    assert groups.rows["series_id"].unique().sort().to_list() == ["north", "south"]


def test_rows_without_a_time_end_together(tmp_path):
    ragged = "id,V1,V2,V3,V4,V5\nlong,1,2,3,4,5\nshort,7,,9,,\nlate,,,5,,\n"
    got = run_ingest(tmp_path, {"m.csv": ragged}, files_source("row_per_series", series_column="id")).rows
    last = (
        got.group_by("series_id")
        .agg(pl.col("event_time").max(), pl.len(), pl.col("value").last())
        .sort("series_id")
    )
    assert last["event_time"].unique().to_list() == [datetime(2000, 1, 1, tzinfo=UTC)]
    assert last.select("series_id", "len", "value").rows() == [
        ("late", 1, 5.0),
        ("long", 5, 5.0),
        ("short", 3, 9.0),
    ]
    # A hole inside is a row, padding is not
    assert got.filter(series_id="short")["value"].to_list() == [7.0, None, 9.0]
    assert got.filter(series_id="long")["event_time"].diff().drop_nulls().unique().to_list() == [
        timedelta(hours=1)
    ]


@pytest.mark.parametrize(
    ("layout", "text"), [("long", "value,who\n1,a\n2,a\n8,b\n3,a\n"), ("wide", "a,b\n1,\n2,\n3,8\n")]
)
def test_rows_are_steps_in_every_layout(layout, text, tmp_path):
    more = {"series_column": "who"} if layout == "long" else {"value_columns": ("a", "b")}
    got = run_ingest(
        tmp_path,
        {"m.csv": text},
        files_source(layout, time_column=None, **more),
        about_of("1mo", integer_time=True),
    ).rows
    months = got.filter(series_id="a")["event_time"].dt.strftime("%Y-%m").to_list()
    assert (months, got.filter(series_id="a")["value"].to_list()) == (
        ["1999-11", "1999-12", "2000-01"],
        [1.0, 2.0, 3.0],
    )
    assert got.filter(series_id="b")["event_time"].max() == datetime(2000, 1, 1, tzinfo=UTC)


def test_series_split_over_files_without_a_time_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"Series 'x' is in a.csv and in b.csv, and without a time column"):
        run_ingest(
            tmp_path,
            {"a.csv": "value\n1\n", "b.csv": "value\n2\n"},
            files_source(time_column=None, series_id="x"),
        )


def test_known_at_is_the_end_of_the_step_and_the_delay_unless_the_file_says_it(tmp_path):
    text = "time,seen,value\n2024-01-01,2024-01-09,1\n2024-01-02,2024-01-03,2\n"
    nominal = run_ingest(tmp_path / "1", {"f.csv": text}, files_source(), about_of("1d", publish_delay_s=90))
    said = run_ingest(tmp_path / "2", {"f.csv": text}, files_source(known_at_column="seen"), about_of("1d"))
    assert nominal.rows["known_at"].dt.strftime("%F %T").to_list() == [
        "2024-01-02 00:01:30",
        "2024-01-03 00:01:30",
    ]
    assert said.rows["known_at"].dt.strftime("%F").to_list() == ["2024-01-09", "2024-01-03"]
    assert said.ledger.as_of.isoformat() == "2024-01-09T00:00:00+00:00"


def test_local_hours_keep_their_order_through_both_clock_changes(tmp_path):
    """In autumn the repeated hour is two hours; in spring the skipped hour, which no clock
    shows, moves on by one."""
    autumn = ["2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 02:00", "2024-10-27 03:00"]
    both = "time,who,value\n" + "".join(
        f"{t},{who},{i}\n" for i, t in enumerate(autumn) for who in ("a", "b")
    )
    got = run_ingest(
        tmp_path / "1", {"f.csv": both}, files_source(time_zone="Europe/Berlin", series_column="who")
    )
    assert got.repeated.is_empty()
    for who in ("a", "b"):
        assert got.rows.filter(series_id=who)["event_time"].dt.strftime("%d %H").to_list() == [
            "26 23",
            "27 00",
            "27 01",
            "27 02",
        ]
    spring = run_ingest(
        tmp_path / "2", {"f.csv": "time,value\n2024-03-31 02:30,1\n"}, files_source(time_zone="Europe/Berlin")
    )
    assert spring.rows["event_time"].to_list() == [datetime(2024, 3, 31, 1, 30, tzinfo=UTC)]


def test_days_keep_their_local_date(tmp_path):
    """A day of a zone is that date; its midnight in UTC would lie on two grids, summer's and
    winter's."""
    dates = "time,value\n2024-03-30,1\n2024-03-31,2\n2024-04-01,3\n"
    instants = "time,value\n2024-03-29T23:00Z,1\n2024-03-30T23:00Z,2\n2024-03-31T22:00Z,3\n"
    for i, text in enumerate((dates, instants)):
        got = run_ingest(
            tmp_path / str(i), {"f.csv": text}, files_source(time_zone="Europe/Berlin"), about_of("1d")
        )
        assert got.rows["event_time"].dt.strftime("%F %T").to_list() == [
            "2024-03-30 00:00:00",
            "2024-03-31 00:00:00",
            "2024-04-01 00:00:00",
        ]
        assert got.ledger.files[0].rows_off_grid == 0


def test_months_without_a_day_are_their_first(tmp_path):
    got = run_ingest(
        tmp_path,
        {"f.csv": "time,value\n2024-01,1\n2024-02,2\n"},
        files_source(time_format="%Y-%m"),
        about_of("1mo"),
    )
    assert got.rows["event_time"].to_list() == [
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 2, 1, tzinfo=UTC),
    ]


def test_infinite_value_is_received_as_it_is(tmp_path):
    got = run_ingest(tmp_path, {"f.csv": "time,value\n2024-01-01,inf\n2024-01-02,-1e3\n"}, files_source())
    assert got.rows["value"].to_list() == [float("inf"), -1000.0]


FAULTS = {
    "not a number": (
        "time,value\n2024-01-01,1\n2024-01-02,twelve\n",
        {},
        r"f\.csv, row 3, column 'value': 'twelve' is not a number \(1 such cells\)\. Correct",
    ),
    "thousands": (
        'time,value\n2024-01-01,"1,234.5"\n',
        {},
        r"row 2, column 'value': '1,234.5' is not a number .* without thousands separators",
    ),
    "no time": (
        "time,value\n2024-01-01,1\nyesterday,2\n",
        {},
        r"row 3, column 'time': 'yesterday' is no time of the form 'iso' \(1 such rows\)",
    ),
    "empty time": ("time,value\n2024-01-01,1\n,2\n", {}, r"row 3, column 'time': the cell is empty"),
    "wrong pattern": (
        "time,value\n2024-01-01,1\n",
        {"time_format": "%d.%m.%Y"},
        r"'2024-01-01' is no time of the form '%d\.%m\.%Y'",
    ),
    "missing column": ("time,valeu\n2024-01-01,1\n", {}, r"no column 'value'; close are \['valeu'\]"),
    "no series": (
        "time,value,who\n2024-01-01,1,\n",
        {"series_column": "who"},
        r"row 2, column 'who': no series in 1 rows",
    ),
    "too long a row": (
        "time,value\n2024-01-01,1\n2024-01-02,2,3\n",
        {},
        r"row 3 has 3 fields, the file's rows usually have 2",
    ),
    "cut row": ("time,value\n2024-01-01,1\n2024-01-02,2\n2024-01-03\n", {}, r"row 4 has 1 fields"),
    "empty": ("", {}, r"f\.csv is empty"),
    "header alone": ("time,value\n", {}, r"f\.csv holds no rows"),
    "broken gz": (gzip.compress(LONG.encode())[:-9], {}, r"does not unpack"),
    "broken json": ("[[1, 2],\n [3,", {"format": "json"}, r"row 2: not JSON"),
    "broken json line": (
        '{"time": "2024-01-01", "value": 1}\n{"time":\n',
        {"format": "jsonl"},
        r"row 2: not JSON",
    ),
    "json of something else": (
        '{"data": [1]}',
        {"format": "json"},
        r"neither a list of lists nor a list of objects",
    ),
    "ragged lists": (
        "[[1, 2], [3]]",
        {"format": "json", "columns": ("time", "value"), "time_format": "s"},
        r"row 2 has 1 fields, the first has 2",
    ),
    "nested": (
        '[{"time": 1, "value": [2]}]',
        {"format": "json", "time_format": "s"},
        r"row 1, column 'value' holds a list",
    ),
    "too few names": (
        "1,2,3\n",
        {"header": False, "columns": ("time", "value")},
        r"has 3 columns, `columns` names 2",
    ),
    "not parquet": ("PAR?", {"format": "parquet"}, r"is not Parquet"),
    "unknown zone": (
        "time,value\n2024-01-01,1\n",
        {"time_zone": "Europe/Nowhere"},
        r"No time zone 'Europe/Nowhere'",
    ),
    "pattern misses": (
        "time,value\n2024-01-01,1\n",
        {"series_pattern": r"^(\d+)_"},
        r"The file name 'f\.csv' does not match",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_is_named_with_its_place_and_the_way_out(fault, tmp_path):
    content, more, message = FAULTS[fault]
    with pytest.raises(SourceError, match=message):
        run_ingest(tmp_path, {"f.csv": content}, files_source(**more))


def test_link_to_a_file_that_went_away_is_named(tmp_path):
    fill(tmp_path / "source", {"f.csv": tmp_path / "gone.csv"})
    with pytest.raises(SourceError, match=r"f.csv is a link to .*gone.csv, which is missing"):
        list(build_source(files_source(), about_of(), tmp_path / "source").read())


def test_source_folder_of_another_dataset_is_refused(tmp_path):
    (tmp_path / "source.json").write_text('{"kind": "arch"}')
    with pytest.raises(SourceError, match=r"reads files, but .* holds arch\. `tidemill use NAME`"):
        list(build_source(files_source(), about_of(), tmp_path).read())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layout": "long", "value_columns": ()}, "needs `value_columns`"),
        ({"layout": "row_per_series", "time_column": "t"}, "has no time in its rows"),
        ({"layout": "wide", "series_column": "who"}, "remove `series_column`"),
        ({"value_columns": ("event_time",)}, "names of the key"),
        ({"series_pattern": "x"}, "exactly one group"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_parameters_that_cannot_be_are_refused(more, message):
    base = {"kind": "files", "format": "csv", "layout": "long", "time_column": "t", "value_columns": ("v",)}
    with pytest.raises(ValidationError, match=message):
        IngestParams.model_validate({"source": base | more})


def test_parameters_survive_being_written_and_read():
    source = files_source(series_pattern=r"^(\w+)-")
    assert FilesSource.model_validate(json.loads(source.model_dump_json())) == source


def test_repeated_rows_have_their_schema_when_there_are_none(tmp_path):
    got = run_ingest(tmp_path, {"f.csv": LONG}, files_source())
    assert REPEATED.check(got.repeated).is_empty()
