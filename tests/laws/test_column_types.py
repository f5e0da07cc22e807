"""Texts and categories survive from ingest to the quarantine and back; no model reads them."""

import csv
import io
import json
import tempfile
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from homes import at_home
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_runs import START, about_of, files_source, run_ingest
from landed import NOON, bar, land, params_of, records_of
from polars.testing import assert_frame_equal

from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.core.errors import ContractError, FeatureInputError, SourceError
from tasks.core.frames import QUARANTINE, REPEATED, SERIES
from tasks.edges.artifacts import read_frame, write_frame
from tasks.edges.delta import open_existing_table
from tasks.features import FeatureParams, build_features
from tasks.features.stage import build_feature_set
from tasks.feed.quarantine import replay_quarantined
from tasks.feed.window import build_window, write_window
from tasks.ingest.extension import build_extension_rows
from tasks.ingest.feed import FeedRows
from tasks.ingest.params import FeedSource
from tasks.validate.params import ColumnRule, RowRule, ValidateParams
from tasks.validate.stage import validate_rows

COLUMNS = {"region": "category", "note": "text"}
ABOUT = about_of(columns=COLUMNS)
SOURCE = files_source(series_column="who", value_columns=("value", "region", "note"))
DTYPES = {"value": pl.Float64, "region": pl.Categorical, "note": pl.String}
ANYTHING = ValidateParams(
    max_quarantine_frac=1.0, columns={c: ColumnRule(nullable=True) for c in ("value", *COLUMNS)}
)
CONTRACT = ValidateParams(
    max_quarantine_frac=1.0,
    columns={
        "value": ColumnRule(min=0, nullable=True),
        "region": ColumnRule(values=("north", "NA")),
        "note": ColumnRule(nullable=True, values=("", "ok", "1.50")),
    },
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
CELLS = st.tuples(
    st.none() | st.floats(-5, 5, allow_nan=False),
    st.none() | st.sampled_from(["north", "south", "NA", "7"]),
    st.none() | st.sampled_from(["ok", "1.50", 'a "b", c', "None", "two\nlines"]) | TEXT,
)
ROWS = st.lists(CELLS, min_size=1, max_size=15)


def as_csv(cells):
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["time", "who", *DTYPES])
    for hour, row in enumerate(cells):
        writer.writerow([f"{START + timedelta(hours=hour):%FT%T}", "a", *row])
    return out.getvalue()


def on_disk(frame, schema):
    """*frame* as the next stage reads it."""
    with tempfile.TemporaryDirectory() as folder:
        write_frame(Path(folder) / "rows.parquet", frame, schema)
        return read_frame(Path(folder) / "rows.parquet", schema)


def ingest(files, source=SOURCE, about=ABOUT):
    with tempfile.TemporaryDirectory() as folder:
        return run_ingest(Path(folder), files, source, about)


def values_of(rows):
    assert {name: rows.schema[name] for name in DTYPES} == DTYPES
    return rows.sort("event_time").select(pl.col("value"), pl.col(*COLUMNS).cast(pl.String)).rows()


@settings(deadline=None, max_examples=15)  # each runs a suite twice, .4 s
@given(cells=ROWS)
def test_a_row_is_as_it_was_written_after_ingest_validate_quarantine_and_back(cells):
    ingested = ingest({"1.csv": as_csv(cells), "2.csv": as_csv(cells)})
    rows, repeated = on_disk(ingested.rows, SERIES), on_disk(ingested.repeated, REPEATED)
    assert values_of(rows) == values_of(repeated) == cells
    validated = validate_rows(rows, ABOUT, CONTRACT, report=lambda _: None)
    clean, quarantined = on_disk(validated.clean, SERIES), on_disk(validated.quarantined, QUARANTINE)
    broken = {
        START + timedelta(hours=hour)
        for hour, (value, region, note) in enumerate(cells)
        if (value is not None and value < 0)
        or region not in {"north", "NA"}
        or note not in {None, "ok", "1.50"}
    }
    assert set(quarantined["event_time"]) == broken
    again = quarantined.drop("rule", "reason")
    if again.height:
        replayed = validate_rows(again, ABOUT, ANYTHING, report=lambda _: None)
        assert replayed.quarantined.is_empty()
        again = replayed.clean
    assert_frame_equal(pl.concat([clean, again]).sort(SERIES.key), rows)


@pytest.mark.parametrize("layout", ["wide", "row_per_series"])
def test_texts_of_other_layouts_are_kept(layout):
    about = about_of(columns={"value": "text"})
    content, names = {
        "wide": ("time,a,b\n2024-01-01T00:00:00,x,1\n2024-01-01T01:00:00,,y\n", ("a", "b")),
        "row_per_series": ("who,1,2\na,x,\nb,1,y\n", ()),
    }[layout]
    more = {"series_column": "who"} if layout == "row_per_series" else {}
    rows = ingest({"1.csv": content}, files_source(layout, value_columns=names, **more), about).rows
    by_series = rows.group_by("series_id").agg("value").sort("series_id")["value"].to_list()
    assert [[text for text in texts if text] for texts in by_series] == [["x"], ["1", "y"]]


def test_of_the_texts_of_one_step_the_last_is_kept():
    lines = ["2024-01-01T00:10:00,1,north,x", "2024-01-01T00:50:00,3,,y", "2024-01-01T01:10:00,4,south,z"]
    source = files_source(value_columns=tuple(DTYPES), aggregate="mean")
    rows = ingest({"1.csv": "\n".join(["time,value,region,note", *lines])}, source).rows
    assert values_of(rows) == [(2.0, "north", "y"), (4.0, "south", "z")]


def test_a_declared_column_that_is_not_there_is_named():
    with pytest.raises(
        SourceError, match=r"`about.columns` has \['colour'\], but 1.csv has \['value', 'region', 'note'\]"
    ):
        ingest({"1.csv": as_csv([(1.0, "a", "b")])}, about=about_of(columns={**COLUMNS, "colour": "text"}))


def test_a_class_of_the_users_own_gives_texts_that_are_declared():
    frame = pl.DataFrame({"series_id": "a", "event_time": [START], "value": 1, "region": "x", "note": "y"})
    rows = build_extension_rows(frame, "own:Reader", "f", ABOUT, build_calendar(ABOUT))
    assert rows.select(*DTYPES).rows() == [(1.0, "x", "y")]
    with pytest.raises(SourceError, match=r"\['region', 'note'\] of f as no numbers.*`about.columns`"):
        build_extension_rows(frame, "own:Reader", "f", about_of(), build_calendar(ABOUT))


@pytest.mark.parametrize(
    ("columns", "rows", "says"),
    [
        ({"note": ColumnRule(min=0)}, (), "orders column 'note', which is text"),
        ({"region": ColumnRule(max=0)}, (), "orders column 'region', which is category"),
        ({}, (RowRule(greater_or_equal=("value", "note")),), "orders column 'note'"),
        ({"note": ColumnRule(values=(1.0,))}, (), r"values` is \[1.0\], but the column is text"),
        ({"value": ColumnRule(values=("x",))}, (), r"values` is \['x'\], but the column is float"),
    ],
)
def test_a_rule_that_does_not_fit_the_type_of_its_column_is_refused(columns, rows, says):
    ingested = ingest({"1.csv": as_csv([(1.0, "a", "b")])}).rows
    contract = ValidateParams(max_quarantine_frac=1.0, columns=columns, rows=rows)
    with pytest.raises(ContractError, match=says):
        validate_rows(ingested, ABOUT, contract, report=lambda _: None)


def make_rows():
    """Some rows come late, so that features are computed again as they were known."""
    cells = [(float(i % 7), "north", f"note {i}") for i in range(40)]
    rows = ingest({"1.csv": as_csv(cells)}).rows
    late = pl.col("event_time").dt.hour() == 5
    return SERIES.conform(
        rows.with_columns(
            known_at=pl.when(late).then(pl.col("known_at").dt.offset_by("3h")).otherwise("known_at")
        )
    )


LAG = {"kind": "lag", "column": "z", "steps": [1, 2]}


@pytest.mark.parametrize(
    ("about", "feature", "says"),
    [
        (
            {},
            {"kind": "lag", "column": "note", "steps": [1]},
            r"'note_lag_1' reads column 'note', which is text",
        ),
        (
            {},
            {"kind": "value", "column": "region"},
            "'region_value' reads column 'region', which is category",
        ),
        ({"target": {"column": "note", "unit": "1"}}, LAG, "`about.target` reads column 'note'"),
        ({"covariates": {"static": ["region"]}}, LAG, "`about.covariates` reads column 'region'"),
    ],
)
def test_features_refuse_texts_and_categories_and_say_why(about, feature, says):
    declared = About.model_validate({**ABOUT.model_dump(), **about})
    params = FeatureParams.model_validate({"list": [feature]})
    for build in (
        lambda: build_feature_set(make_rows(), declared, params),
        lambda: build_features(make_rows(), declared, params, build_calendar(declared)),
    ):
        with pytest.raises(FeatureInputError, match=f"{says}.*no model reads texts or categories yet"):
            build()


def test_texts_that_no_feature_reads_change_no_feature():
    params = FeatureParams.model_validate({"list": [LAG]})
    with_texts = build_feature_set(make_rows(), ABOUT, params)
    without = build_feature_set(make_rows().drop(*COLUMNS), about_of(), params)
    assert_frame_equal(with_texts.table, without.table)
    assert_frame_equal(with_texts.vintages, without.vintages)


def test_texts_of_a_feed_pass_its_quarantine_and_a_replay_from_it(tmp_path):
    fields = {"price": {}, "region": {"type": "string", "nullable": True}}
    bars = [bar(minutes=60 * (9 - hour), region=f"p{hour % 3}") for hour in range(9)]
    held = {k: v for k, v in bar(minutes=0, region="held").items() if k != "price"}
    about = about_of(columns={"region": "category"})
    with at_home(tmp_path):
        folder, source = tmp_path / "feed/d/table", tmp_path / "source"
        source.mkdir()
        values = [json.dumps(one).encode() for one in (*bars, held)]
        table = land(folder, [records_of(values)], params_of(fields=fields))
        replayed = params_of(fields={**fields, "price": {"nullable": True}})
        assert replay_quarantined(table, replayed, None) == {"missing": {"row": 1}}
        later = records_of([json.dumps(bar(minutes=-180, region="new")).encode()]).with_columns(
            _offset=pl.lit(len(values), pl.Int64), _timestamp=NOON + timedelta(hours=3)
        )
        table = land(folder, [later], replayed)
        write_window(source, build_window(open_existing_table(folder), "1h", 3600, None))
        rows = FeedRows(FeedSource(kind="feed"), build_calendar(about), source, about.text_columns).read()
        (file,) = rows
    assert file.rows.schema["region"] == pl.String
    expected = [*((1.0, f"p{hour % 3}") for hour in range(9)), (None, "held")]
    assert file.rows.sort("event_time").select("price", "region").rows() == expected


def test_a_dataset_without_such_columns_is_written_as_before():
    assert "columns" not in about_of().model_dump()
    assert ABOUT.model_dump(mode="json")["columns"] == COLUMNS
