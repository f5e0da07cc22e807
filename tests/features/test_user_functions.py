"""A function of one's own is a feature like ours: computed per series, named for ever, carried
by the release, told clearly when it cannot be."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from servers import DATASET, at, serving
from small_release import SMALL_FEATURES, build_small_release, cutoff_at, small_about, small_rows

from tasks.core.calendar import build_calendar
from tasks.core.errors import FeatureInputError
from tasks.features import FeatureParams, build_feature_schema, build_features
from tasks.features.functions import resolve_functions
from tasks.release import check_manifest, load_release, predict_cutoffs

OWN = '''
import numpy as np
import polars as pl


def above_last_week(values):
    """The value less the one a week ago."""
    return values - np.concatenate([np.full(7, np.nan), values])[: len(values)]


def weekend_load(frame):
    return frame.select(pl.when(pl.col("event_time").dt.weekday() > 5).then(pl.col("load")).otherwise(0.0).alias("x"))["x"]
'''
ARRAY = {"kind": "function", "of": "mine:above_last_week", "column": "z", "lookback_steps": 7, "role": "free"}
FRAME = {"kind": "function", "of": "mine:weekend_load", "columns": ["load"], "lookback_steps": 0}


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "extensions"
    folder.mkdir()
    (folder / "mine.py").write_text(OWN)
    return folder


def bound(folder, *listed):
    return resolve_functions(
        FeatureParams.model_validate({**SMALL_FEATURES, "list": [*SMALL_FEATURES["list"], *listed]}), folder
    )


def table_of(params, rows):
    about = small_about()
    return build_features(rows, about, params, build_calendar(about))


def test_each_series_is_computed_by_itself_and_holes_are_nan(own):
    rows = small_rows(60).filter(pl.col("event_time").dt.ordinal_day() != 20)
    table = table_of(bound(own, ARRAY, FRAME), rows)
    expected = table.select(
        z_above_last_week_7=(pl.col("z") - pl.col("z").shift(7).over("series_id")).cast(pl.Float32),
        load_weekend_load_0=pl.when(pl.col("event_time").dt.weekday() > 5)
        .then(pl.col("y"))
        .otherwise(0.0)
        .cast(pl.Float32),
    )
    assert table["is_gap"].sum() == 2
    assert_frame_equal(table.select(expected.columns), expected, abs_tol=1e-6)


def test_the_schema_holds_the_hash_of_the_code_so_a_name_stays_what_it_was(own):
    before = build_feature_schema(small_about(), bound(own, ARRAY))
    assert [c.code is None for c in before.columns] == [True] * (len(before.columns) - 1) + [False]
    assert (before.columns[-1].name, before.columns[-1].lookback_steps) == ("z_above_last_week_7", 7)
    (own / "mine.py").write_text(OWN.replace("the one a week ago", "the one seven days ago"))
    assert build_feature_schema(small_about(), bound(own, ARRAY)).hash != before.hash


def test_a_file_in_the_old_folder_is_found_with_a_warning(own, tmp_path):
    old = tmp_path / "own"
    old.mkdir()
    (old / "mine.py").write_text(OWN)
    (own / "mine.py").unlink()
    params = FeatureParams.model_validate({"list": [ARRAY]})
    with pytest.warns(FutureWarning, match="git mv own/mine.py tasks/extensions/mine.py"):
        resolved = resolve_functions(params, own, old)
    assert resolved.list[0].source == OWN


@pytest.mark.parametrize(
    ("text", "listed", "words"),
    [
        (
            OWN,
            {**ARRAY, "of": "yours:f"},
            r"'yours:f' needs the file tasks/extensions/yours.py; there are \['mine'\]",
        ),
        (OWN, {**ARRAY, "of": "mine:f"}, "mine.py has no function 'f'"),
        (
            "import pandas\nfrom tasks.core import frames\n",
            ARRAY,
            r"imports \['pandas', 'tasks.core'\]; only its text travels",
        ),
        ("from . import other\n", ARRAY, r"imports \['.'\]"),
        ("def f(:\n", ARRAY, "mine.py, line 1: invalid syntax"),
        ("raise ValueError('not today')\n", ARRAY, "mine.py cannot be imported: ValueError: not today"),
    ],
)
def test_code_that_cannot_be_shipped_is_refused_with_the_way_out(own, text, listed, words):
    (own / "mine.py").write_text(text)
    with pytest.raises(FeatureInputError, match=words):
        bound(own, listed)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return values[1:]", "returned 59 numbers for the 60 steps of series 'north'"),
        ("return 1 / 0", "failed on series 'north' .*ZeroDivisionError"),
        ("values[0] = 1.0", "failed on series 'north' .*read-only"),
        ("return ['a'] * len(values)", "failed on series 'north'"),
        ("return 5.0", "returned 1 numbers for the 60 steps|failed on series 'north'"),
    ],
)
def test_a_function_that_gives_no_number_a_step_is_told_where(own, body, words):
    (own / "mine.py").write_text(f"def above_last_week(values):\n    {body}\n")
    with pytest.raises(FeatureInputError, match=words):
        table_of(bound(own, ARRAY), small_rows(60))


def test_an_entry_says_one_way_of_reading_and_a_source_that_is_there(own):
    for listed in ({**ARRAY, "columns": ["load"]}, {k: v for k, v in ARRAY.items() if k != "column"}):
        with pytest.raises(
            FeatureInputError, match="give `column` for an array of its values, or `columns` for a frame"
        ):
            bound(own, listed)
    with pytest.raises(FeatureInputError, match=r"'laod', which is missing.* Did you mean 'load'"):
        table_of(bound(own, {**FRAME, "columns": ["laod"]}), small_rows(60))
    with pytest.raises(FeatureInputError, match="has no source yet"):
        table_of(FeatureParams.model_validate({"list": [ARRAY]}), small_rows(60))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release whose ridge weighs the function; the file is gone."""
    folder = tmp_path_factory.mktemp("released")
    (folder / "extensions").mkdir()
    (folder / "extensions/mine.py").write_text(OWN)
    build_small_release(
        folder / "release",
        features=bound(folder / "extensions", ARRAY, FRAME),
        weights={"ridge": 1.0},
        dataset=DATASET,
    )
    (folder / "extensions/mine.py").unlink()
    return folder / "release"


def test_a_release_computes_with_the_code_it_carries_under_its_digest(release, tmp_path):
    rows, loaded = small_rows(), load_release(release)
    assert OWN in (loaded.features.list[-1].source, loaded.features.list[-2].source)
    made = predict_cutoffs(loaded, rows.filter(pl.col("event_time") >= cutoff_at(300)), [cutoff_at(399)])
    assert made.height == 10
    assert_frame_equal(made, predict_cutoffs(loaded, rows, [cutoff_at(399)]), rel_tol=1e-9)
    own = tmp_path / "extensions"
    own.mkdir()
    (own / "mine.py").write_text(OWN + "\n# as before\n")
    build_small_release(
        tmp_path / "release", features=bound(own, ARRAY, FRAME), weights={"ridge": 1.0}, dataset=DATASET
    )
    assert check_manifest(tmp_path / "release").digest != check_manifest(release).digest


def test_a_tail_gives_a_functions_numbers_as_the_batch_does(release):
    loaded, rows = load_release(release), small_rows()
    batch = table_of(loaded.features, rows)
    names = ["z_above_last_week_7", "load_weekend_load_0"]
    for day in (50, 200, 399):
        until = cutoff_at(day - 1)
        tail = rows.filter(
            (pl.col("event_time") <= until)
            & (pl.col("event_time") >= cutoff_at(day - 1 - loaded.schema.lookback_steps))
        )
        online = table_of(loaded.features, tail).filter(pl.col("event_time") == until).select(names)
        np.testing.assert_allclose(
            online.to_numpy(), batch.filter(pl.col("event_time") == until).select(names).to_numpy(), rtol=1e-6
        )


def test_the_service_answers_with_the_function_and_without_its_file(release, tmp_path):
    with serving(tmp_path / "home", TIDEMILL_RELEASE=str(release)) as running, at(tmp_path / "home"):
        reply = running.predict(series_id="north", as_of=cutoff_at(399).isoformat())
    assert not Path("tasks/extensions/mine.py").exists()
    steps = reply.json()["series"][0]["steps"]
    expected = predict_cutoffs(load_release(release), small_rows(), [cutoff_at(399)]).filter(
        pl.col("series_id") == "north"
    )["y_hat"]
    np.testing.assert_allclose([step["y_hat"] for step in steps], expected, rtol=1e-6)
