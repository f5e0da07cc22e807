"""Tables that another engine has changed: what this code would read wrongly is refused by name."""

import json
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from tasks.core.errors import FeedError
from tasks.edges.delta import VersionedTable

COLUMNS = {"n": pl.Int64(), "part": pl.String()}
NAMED = {"minReaderVersion": 3, "minWriterVersion": 7}


@pytest.fixture
def folder(tmp_path):
    """A table of ours with two rows."""
    path = tmp_path / "table"
    VersionedTable(path, COLUMNS, ["part"])
    write_deltalake(path, pl.DataFrame({"n": [1, 2], "part": ["a", "a"]}).to_arrow(), mode="append")
    return path


def add_entry(folder, **action):
    """Commit *action* as another engine does: the next entry of the log."""
    version = DeltaTable(folder).version() + 1
    (folder / "_delta_log" / f"{version:020d}.json").write_text(json.dumps(action) + "\n")


def list_content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def name(reader, writer):
    """A protocol that lists its features by name."""
    return {**NAMED, "readerFeatures": reader, "writerFeatures": [*reader, *writer]}


@pytest.mark.parametrize(
    ("protocol", "named"),
    [
        (name(["deletionVectors"], []), "deletionVectors"),
        (name(["columnMapping"], ["appendOnly"]), "columnMapping"),
        (name(["v2Checkpoint"], []), "v2Checkpoint"),
        (name([], ["rowTracking", "domainMetadata"]), "domainMetadata, rowTracking"),
        ({"minReaderVersion": 2, "minWriterVersion": 5}, "changeDataFeed, checkConstraints, columnMapping"),
        ({"minReaderVersion": 1, "minWriterVersion": 4}, "changeDataFeed, checkConstraints"),
    ],
)
def test_a_table_with_a_feature_that_is_not_known_is_refused_by_name_and_stays_as_it_is(
    folder, protocol, named
):
    opened = VersionedTable(folder, COLUMNS, ["part"])
    add_entry(folder, protocol=protocol)
    before = list_content(folder)
    for attempt in (lambda: VersionedTable(folder, COLUMNS, ["part"]), opened.refresh):
        with pytest.raises(FeedError, match=f"uses {named} of the Delta protocol"):
            attempt()
    assert list_content(folder) == before


def test_features_of_plain_tables_are_read(folder):
    add_entry(folder, protocol=name([], ["appendOnly", "invariants"]))
    table = VersionedTable(folder, COLUMNS, ["part"])
    assert table.scan().collect()["n"].to_list() == [1, 2]
