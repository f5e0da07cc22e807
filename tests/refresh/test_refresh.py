"""A refresh publishes what the full stages would have, or nothing."""

from datetime import timedelta

import polars as pl
import pytest
import yaml
from homes import at_home
from hypothesis import given, settings
from hypothesis import strategies as st
from refresh_runs import DATASET, build_root, run_full_pass, write_meters
from small_release import START, small_rows

from tasks.core.errors import ContractError, SourceError
from tasks.core.frames import QUARANTINE
from tasks.edges.artifacts import read_frame
from tasks.edges.params import read_document
from tasks.edges.refreshed import get_refresh_folder, is_refreshed_since, read_refresh
from tasks.edges.registry import get_rows_path, publish_rows_file
from tasks.refresh.stage import refresh_rows

ROWS = small_rows(60)


@pytest.fixture
def root(tmp_path):
    with at_home(tmp_path / "home"):
        yield build_root(tmp_path / "root")


def published():
    return get_rows_path(DATASET).read_bytes()


def refresh(root):
    said = []
    return refresh_rows(root, report=said.append), said


def until(day):
    return ROWS.filter(pl.col("event_time") < START + timedelta(days=day))


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.booleans(), st.data())
def test_a_refresh_after_each_change_gives_the_bytes_of_the_full_stages(tmp_path_factory, days, split, data):
    """Rows come, go, are corrected and move to another file."""
    folder = tmp_path_factory.mktemp("refresh")
    with at_home(folder / "home"):
        root = build_root(folder / "root")
        for day in days:
            rows = until(day)
            hit = data.draw(st.integers(0, rows.height - 1))
            rows = rows.with_row_index("i").with_columns(
                pl.when(pl.col("i") == hit).then(pl.col("load") * 1.5).otherwise("load").alias("load")
            )
            parts = rows.partition_by("series_id") if split else [rows]
            for old in root.glob("meters*.csv"):
                old.unlink()
            for i, part in enumerate(parts):
                write_meters(root, part, f"meters{i}.csv")
            done, _ = refresh(root)
            assert published() == run_full_pass(root)
            assert (done.n_rows, done.version) == (rows.height, read_refresh(DATASET).version)


def test_new_rows_are_counted_and_nothing_is_read_when_nothing_has_changed(root):
    write_meters(root, until(50))
    assert refresh(root)[0].n_new == 100
    again, said = refresh(root)
    assert (again.n_new, again.is_changed, again.n_rows, said) == (0, False, 100, [])
    write_meters(root, until(53))
    done, said = refresh(root)
    assert (done.n_new, done.n_rows, len(said)) == (6, 106, 1)
    assert done.as_of == START + timedelta(days=53)


def test_a_file_that_appears_is_read(root):
    write_meters(root, until(50))
    refresh(root)
    write_meters(root, small_rows(50, series_ids=("east",)), "meters_east.csv")
    done, _ = refresh(root)
    assert (done.n_new, done.n_series) == (50, 3)


def test_rows_that_break_the_contract_stay_out_and_too_many_change_nothing(root):
    write_meters(root, until(50))
    refresh(root)
    before = published()
    hit = pl.col("event_time") == START + timedelta(days=7)
    bad = until(50).with_columns(pl.when(hit).then(-1.0).otherwise("load").alias("load"))
    write_meters(root, bad.filter((pl.col("series_id") == "north") | ~hit))
    done, _ = refresh(root)
    assert (done.n_rows, done.n_new, done.is_changed) == (98, -2, True)
    assert (done.n_quarantined, done.by_rule["load > 0"]) == (1, 1)
    write_meters(root, bad.with_columns(load=-pl.col("load").abs()))
    after = published()
    with pytest.raises(ContractError, match=r"100 of 100 rows.*quarantine.parquet"):
        refresh(root)
    assert published() == after != before
    assert read_frame(get_refresh_folder(DATASET) / "quarantine.parquet", QUARANTINE).height == 100
    write_meters(root, until(50))
    assert refresh(root)[0].n_new == 2
    assert published() == before


def test_a_source_that_is_gone_changes_nothing(root):
    write_meters(root, until(50))
    refresh(root)
    before = published()
    (root / "meters.csv").unlink()
    with pytest.raises(SourceError, match="No file matches"):
        refresh(root)
    assert published() == before


def test_promote_keeps_rows_that_are_newer_and_replaces_those_of_another_contract(root):
    write_meters(root, until(50))
    run_full_pass(root)
    clean, document = root / "data/clean/rows.parquet", read_document(root)
    assert not is_refreshed_since(document, clean)
    write_meters(root, until(55))
    refresh(root)
    assert is_refreshed_since(document, clean)
    content = yaml.safe_load((root / "params.yaml").read_text())
    content["datasets"][DATASET]["validate"]["columns"]["load"]["max"] = 1e9
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    assert not is_refreshed_since(read_document(root), clean)


def test_rows_that_a_promotion_has_replaced_are_published_again(root):
    write_meters(root, until(50))
    run_full_pass(root)
    write_meters(root, until(55))
    refresh(root)
    newest = published()
    publish_rows_file(DATASET, root / "data/clean/rows.parquet")
    assert published() != newest
    refresh(root)
    assert published() == newest
