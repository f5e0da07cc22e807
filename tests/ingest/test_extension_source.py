"""A source of the user's own is a class that reads one file; ingest does the rest."""

import sqlite3

import polars as pl
import pytest
from ingest_runs import about_of, files_source, fill, hourly, run_ingest
from polars.testing import assert_frame_equal

from tasks.core.errors import SourceError
from tasks.ingest.params import ExtensionSource
from tasks.ingest.source import build_source

METERS = '''
import sqlite3
from contextlib import closing

import polars as pl


class Meters:
    """What a query finds in an SQLite file."""

    def __init__(self, query):
        self.query = query

    def read(self, path):
        with closing(sqlite3.connect(path)) as database:
            rows = pl.read_database(self.query, database)
        return rows.with_columns(pl.col("event_time").str.to_datetime(time_unit="us", time_zone="UTC"))
'''
QUERY = "select meter as series_id, at as event_time, kwh as value from meters"


def source_of(**options):
    return ExtensionSource(kind="extension", of="meters:Meters", files=("*.db",), options=options)


def database_of(path, values):
    with sqlite3.connect(path) as database:
        database.execute("create table meters (meter text, at text, kwh real)")
        rows = hourly(values).select("series_id", pl.col("event_time").dt.strftime("%FT%TZ"), "value")
        database.executemany("insert into meters values (?, ?, ?)", rows.rows())
    return path


def test_the_rows_of_a_reader_are_those_of_the_same_table_as_csv(extensions, tmp_path):
    (extensions / "meters.py").write_text(METERS)
    values = [1.0, None, 3.0, 4.0]
    file = database_of(tmp_path / "a.db", values)
    got = run_ingest(tmp_path / "source", {"a.db": file}, source_of(query=QUERY))
    text = "time,value\n" + "".join(
        f"2024-01-01T{hour:02d}:00:00Z,{'' if value is None else value}\n"
        for hour, value in enumerate(values)
    )
    expected = run_ingest(tmp_path / "csv", {"a.csv": text}, files_source(series_id="a"))
    assert_frame_equal(got.rows, expected.rows)
    assert got.ledger.files[0].file == "a.db"


def test_a_knowledge_time_of_the_reader_counts(extensions, tmp_path):
    (extensions / "meters.py").write_text(
        METERS.rstrip() + ".with_columns(known_at=pl.col('event_time') + pl.duration(hours=5))\n"
    )
    file = database_of(tmp_path / "a.db", [1.0])
    rows = run_ingest(tmp_path / "source", {"a.db": file}, source_of(query=QUERY)).rows
    assert (rows["known_at"] - rows["event_time"]).dt.total_hours().to_list() == [5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("self.query = query", "self.other = query"),
            r"`meters:Meters` failed on a.db: AttributeError: .*'query'",
        ),
        (("as series_id", "as meter"), r"returns no column \['series_id'\] for a.db"),
        (("kwh as value", "meter as value"), r"returns \['value'\] of a.db as no numbers"),
        (('.str.to_datetime(time_unit="us", time_zone="UTC")', ""), "whose event_time is no time"),
        (("def __init__(self, query)", "def __init__(self)"), r"does not take the options \['query'\]"),
        (("def read", "def fetch"), r"does not fit: \['read'\] is missing"),
    ],
)
def test_a_reader_that_does_not_fit_is_refused_with_the_way_out(extensions, tmp_path, change, message):
    (extensions / "meters.py").write_text(METERS.replace(*change))
    file = database_of(tmp_path / "a.db", [1.0])
    folder = fill(tmp_path / "source", {"a.db": file})
    with pytest.raises(SourceError, match=message):
        list(build_source(source_of(query=QUERY.replace(*change)), about_of(), folder).read())
