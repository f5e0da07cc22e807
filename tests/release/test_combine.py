"""A release answers by whatever combines its members: the same numbers as by hand, explained in
full, refused where it cannot be."""

import hashlib
import json
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_release import build_small_body, build_small_release, cutoff_at, small_features, small_rows

from tasks.core.errors import ReleaseError
from tasks.core.schema import encode_series_id
from tasks.explain.params import ExplainParams
from tasks.explain.stage import explain_release
from tasks.features import build_features
from tasks.release import load_release, load_unsealed_release, predict_cutoffs, predict_ensemble
from tasks.release.combine import (
    Ranks,
    Recency,
    Regime,
    Weights,
    apply_combination,
    build_plain_weights,
    compute_row_weights,
    compute_weight_groups,
)

MEMBERS = ("last_value", "ridge", "window_mean")
MEDIAN = Ranks(members=MEMBERS, table=((0, 0, 0), (1, 0, 0), (0.5, 0.5, 0), (0, 1, 0)))
STEPS = Weights(
    members=MEMBERS,
    table=(tuple(tuple(row) for row in np.linspace([0.5, 0.3, 0.2], [0.1, 0.2, 0.7], 5).T.tolist()),),
)
CALM, WILD = ((0.2,), (0.3,), (0.5,)), ((1.0,), (-0.5,), (0.5,))
REGIME = Weights(
    members=MEMBERS, table=(CALM, WILD), regime=Regime(column="z_last", above=(5.0,)), whole=True
)
SERIES = Weights(
    members=MEMBERS,
    table=(CALM, WILD, ((0.0,), (1.0,), (0.0,))),
    series=tuple(sorted((encode_series_id("north"), encode_series_id("elsewhere")))),
)
MOVING = Weights(members=MEMBERS, table=(CALM,), recent=Recency(half_life_cutoffs=20))
KINDS = pytest.mark.parametrize(
    ("kind", "how"),
    [("median", MEDIAN), ("per_step", STEPS), ("regime", REGIME), ("per_series", SERIES), ("moving", MOVING)],
)
FEATURES = small_features(list=[*small_features().model_dump()["list"], {"kind": "series"}])


@pytest.fixture(scope="module")
def rows():
    return small_rows()


@pytest.fixture(scope="module")
def bodies(tmp_path_factory, rows):
    def build(how):
        folder = tmp_path_factory.mktemp("combined") / "body"
        said = {"combination": how.model_dump(), "combiner": "median"}
        return load_unsealed_release(
            build_small_body(folder, rows, weights=dict.fromkeys(MEMBERS, 1 / 3), features=FEATURES, **said)
        )

    return build


def x_of(body, rows):
    table = build_features(rows, body.about, body.features, body.calendar)
    table = table.filter(table[body.schema.last].is_not_null())
    return table, table.select(body.schema.names).to_numpy().astype(np.float32)


@KINDS
def test_the_release_says_what_its_members_say_combined_by_hand(kind, how, bodies, rows):
    body = bodies(how)
    table, x = x_of(body, rows)
    said = np.stack([body.members[m].run(["z_hat"], {"x": x})[0].astype(float) for m in MEMBERS], axis=1)
    if kind == "median":
        expected = np.median(said, axis=1)
    else:
        north = np.where(table["series_id"] == "north", SERIES.series.index(encode_series_id("north")), 2)
        group = {"regime": (table["z_last"].to_numpy() > 5).astype(int), "per_series": north}.get(
            kind, np.zeros(len(x), dtype=int)
        )
        of_row = np.asarray(how.table)[group]
        expected = (of_row * said).sum(axis=1)
    np.testing.assert_allclose(predict_ensemble(body, x), expected, atol=1e-9)
    assert len(np.unique(compute_weight_groups(how, x, body.schema))) == (
        2 if kind in {"regime", "per_series"} else 1
    )


@KINDS
@given(values=arrays(float, (6, 3, 5), elements=st.floats(-5, 5) | st.just(np.nan)), data=st.data())
@settings(max_examples=20, deadline=None)
def test_the_weights_of_a_row_give_what_the_combination_gives(kind, how, values, data):
    n_groups = 1 if kind == "median" else len(how.table)
    group = np.array(data.draw(st.lists(st.integers(0, n_groups - 1), min_size=6, max_size=6)))
    expected = apply_combination(how, values, group)
    found = np.where(np.isnan(values), 0, values * compute_row_weights(how, values, group)).sum(axis=1)
    known = np.isfinite(expected)
    np.testing.assert_allclose(found[known], expected[known], atol=1e-9)


@KINDS
def test_one_row_alone_gives_the_bits_that_it_gives_among_others(kind, how, bodies, rows):
    body = bodies(how)
    x = x_of(body, rows)[1][:40]
    np.testing.assert_array_equal(
        np.concatenate([predict_ensemble(body, row[None]) for row in x]), predict_ensemble(body, x)
    )


@KINDS
def test_parts_and_base_are_the_forecast_whatever_combines(kind, how, bodies, rows):
    found = explain_release(bodies(how), rows, ExplainParams(n_sample=6, n_background=5))
    assert found.summary.max_abs_gap <= 1e-4
    read = {"regime": "z_last", "per_series": "series_key_high"}.get(kind, "z_lag_1")
    assert read not in found.summary.unread


def test_a_combined_release_is_sealed_loaded_and_forecasts(tmp_path, rows):
    build_small_release(
        tmp_path / "release",
        rows,
        weights=dict.fromkeys(MEMBERS, 1 / 3),
        combination=MEDIAN.model_dump(),
        combiner="median",
    )
    made = predict_cutoffs(load_release(tmp_path / "release"), rows, [cutoff_at(399)])
    assert made.height == 10
    assert made["q_0.1"].is_not_null().all()


def test_a_release_sealed_before_there_were_combiners_keeps_its_digest(tmp_path, rows):
    build_small_release(tmp_path / "release", rows)
    sealed = load_release(tmp_path / "release").manifest
    blend = json.loads((tmp_path / "release/ensemble.json").read_text())
    assert not {"combiner", "combination"} & set(blend)
    said = {
        "files": sealed.files,
        "schema": load_unsealed_release(tmp_path / "release").schema.hash,
        "data_version": "0" * 64,
        "parameters": _as_it_was(blend),
    }
    assert (
        sealed.digest
        == hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    )


def _as_it_was(blend):
    return {**blend, **{k: blend[k].replace("+00:00", "Z") for k in ("seen_until", "as_of")}}


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        (REGIME.model_copy(update={"regime": Regime(column="gone", above=(5.0,))}), "no column 'gone'"),
        (MEDIAN.model_copy(update={"table": ((1.0, 0.0, 0.0),)}), "ranks of 3 members need"),
        (STEPS.model_copy(update={"table": (CALM, CALM)}), "1 groups and 3 members need"),
        (STEPS.model_copy(update={"members": ("ridge", "har", "mlp")}), "its weights name"),
    ],
)
def test_what_cannot_be_combined_is_refused_at_loading(how, fault, bodies):
    with pytest.raises(ReleaseError, match=fault):
        bodies(how)


said = arrays(np.float64, (4, 3, 2), elements=st.one_of(st.floats(-1e3, 1e3), st.just(np.nan)))


def test_weights_that_move_need_what_each_member_said_along_the_history(tmp_path, rows):
    folder = build_small_body(
        tmp_path / "body", rows, weights=dict.fromkeys(MEMBERS, 1 / 3), combination=MOVING.model_dump()
    )
    pl.read_parquet(folder / "history.parquet").drop("z_hat_ridge").write_parquet(folder / "history.parquet")
    with pytest.raises(ReleaseError, match="no column 'z_hat_ridge'"):
        load_unsealed_release(folder)


@given(z_hats=said)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_missing_members_are_left_out_of_a_median_and_of_a_weighted_sum(z_hats):
    group = np.zeros(len(z_hats), dtype=np.int64)
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    medians, sums = (
        apply_combination(MEDIAN, z_hats, group),
        apply_combination(build_plain_weights(weights), z_hats, group),
    )
    for (row, step), of_all in np.ndenumerate(sums):
        there = np.isfinite(z_hats[row, :, step])
        if not there.any():
            assert np.isnan(of_all)
            assert np.isnan(medians[row, step])
            continue
        spoken, w = z_hats[row, there, step], np.array(list(weights.values()))[there]
        assert of_all == pytest.approx(w @ spoken / w.sum(), abs=1e-9)
        assert medians[row, step] == pytest.approx(np.median(spoken), abs=1e-9)


def test_what_has_signs_says_nothing_when_one_that_counts_is_missing():
    how = Weights(members=("a", "b", "c"), table=(((1.5,), (-0.5,), (0.0,)),), whole=True)
    for missing in [m for n in range(4) for m in combinations(range(3), n)]:
        z_hats = np.ones((1, 3, 2))
        z_hats[:, list(missing)] = np.nan
        assert np.isnan(apply_combination(how, z_hats, np.zeros(1, dtype=np.int64))).all() == bool(
            {0, 1} & set(missing)
        )
