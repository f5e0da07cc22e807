"""One reversible mapping for names outside; MLflow's side is tested with its own client."""

import re

import pytest
from homes import at_home
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.edges.registry import get_champion_path, get_rows_path
from tasks.edges.safe_names import (
    MAX_CHARS,
    build_long_name_tags,
    decode_name,
    decode_slug,
    encode_name,
    encode_names,
    encode_slug,
)
from tasks.edges.served_store import get_served_path
from tasks.feed.service import get_feed_folder
from tasks.validate.stage import get_failed_folder


@given(st.lists(st.text(max_size=60), unique=True))
def test_slugs_are_taken_by_prefect_stay_different_and_are_found_again(names):
    slugs = {name: encode_slug(name) for name in names}
    assert all(re.fullmatch("[a-z0-9-]*", slug) for slug in slugs.values())
    assert {name: decode_slug(slug) for name, slug in slugs.items()} == {name: name for name in names}


@given(st.text("ax_-0041F", max_size=12))
def test_what_looks_like_an_escape_is_none(name):
    assert decode_slug(encode_slug(name)) == name


def test_an_ordinary_slug_has_dashes_in_place_of_underscores():
    assert encode_slug("index_volatility") == "index-volatility"


def test_prefects_own_check_takes_a_slug():
    from prefect.client.schemas.actions import ArtifactCreate

    for name in ("EUR/USD", "S&P 500", "a-b", "a_b", "Größe"):
        assert ArtifactCreate(key=f"{encode_slug(name)}-train-table").key


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "a\\b:c"])
def test_no_name_of_a_dataset_leaves_its_folder(name, tmp_path):
    with at_home(tmp_path):
        for path, folder in (
            (get_champion_path(name), tmp_path / "registry" / encode_name(name)),
            (get_rows_path(name), tmp_path / "rows"),
            (get_served_path(name), tmp_path / "served"),
            (get_feed_folder(name), tmp_path / "feed"),
            (get_failed_folder(name), tmp_path / "failed" / "validate"),
        ):
            assert path.parent == folder
            assert path.resolve().parent == folder.resolve()


@settings(deadline=None)  # the first example imports mlflow
@given(st.lists(st.text(max_size=300), unique=True))
def test_names_are_taken_by_mlflow_stay_different_and_are_found_again(names):
    from mlflow.utils.validation import _validate_metric_name, _validate_model_name

    safe = encode_names(names)
    for name, taken in safe.items():
        _validate_metric_name(taken)
        _validate_model_name(taken)
        assert len(taken) <= MAX_CHARS
        assert decode_name(taken, build_long_name_tags(safe)) == name
    assert len({taken.lower() for taken in safe.values()}) == len(names)


@pytest.mark.parametrize(
    "name", ["overall.mae", "series.north.mae", "walk.n_cutoffs", "series.Zürich Süd.mae", "tidemill.digest"]
)
def test_an_ordinary_name_stays_as_it_is(name):
    assert encode_name(name) == name
