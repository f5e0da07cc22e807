from datetime import timedelta, timezone

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from small_release import (
    START,
    build_small_body,
    build_small_release,
    cutoff_at,
    small_about,
    small_features,
    small_rows,
)

from tasks.core.errors import ReleaseError
from tasks.core.frames import FORECAST, SERIES, select_as_of
from tasks.core.kinds.base import CalibrationSpec
from tasks.core.kinds.timeline import Timeline, calibrate
from tasks.core.panel import build_panel
from tasks.core.transform import inverse_transform_target
from tasks.features import build_features
from tasks.release import (
    find_absence_reasons,
    load_release,
    load_unsealed_release,
    predict_cutoffs,
    predict_ensemble,
)
from tasks.release.combine import compute_regime
from tasks.release.outputs import predict_quantile_bases

LAST = 399  # day of the newest row
SEEN = 339  # day of the newest row before seen_until


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "release"
    build_small_release(folder)
    return load_release(folder)


@pytest.fixture(scope="module")
def strided(tmp_path_factory):
    """Its quantiles learn from every third cutoff, all series in one pool."""
    return load_unsealed_release(
        build_small_body(
            tmp_path_factory.mktemp("strided") / "body",
            small_rows(),
            stride_steps=3,
            n_history=60,
            group="all",
        )
    )


WAYS = {
    "block": {"block": 4},
    "regime": {"group": "regime", "regime": {"column": "z_std_14", "above": [0.15, 0.25]}},
    "cqr": {"quantile_members": {"0.1": ["low"], "0.9": ["high", "higher"]}},
}


@pytest.fixture(scope="module", params=WAYS)
def by_way(request, tmp_path_factory):
    """Its quantiles are made in another way."""
    folder = tmp_path_factory.mktemp(request.param) / "release"
    build_small_release(folder, **WAYS[request.param])
    return load_release(folder)


def test_every_way_to_make_intervals_answers_a_batch_as_one_at_a_time_and_as_one_walk_would(by_way):
    cutoffs = [cutoff_at(d) for d in (300, 338, 340, 341, 360, 397, LAST)]
    batch = predict_cutoffs(by_way, by_way.rows, cutoffs)
    single = pl.concat([predict_cutoffs(by_way, by_way.rows, [at]) for at in reversed(cutoffs)])
    assert_frame_equal(batch, FORECAST.conform(single), rel_tol=1e-9)
    assert batch.null_count().sum_horizontal().item() == 0
    assert batch.select(
        ((pl.col("q_0.1") <= pl.col("q_0.5")) & (pl.col("q_0.5") <= pl.col("q_0.9"))).all()
    ).item()
    assert_is_one_walk(by_way)


def test_forecasts_are_dated_by_the_calendar_and_their_quantiles_never_cross(release):
    made = predict_cutoffs(release, release.rows, [cutoff_at(d) for d in range(SEEN, LAST + 1)])
    FORECAST.check(made)
    assert made.height == 61 * 2 * 5
    assert made.select(
        (pl.col("event_time") == pl.col("cutoff") + pl.duration(days=pl.col("step") - 1)).all()
    ).item()
    assert made.select(
        ((pl.col("q_0.1") <= pl.col("q_0.5")) & (pl.col("q_0.5") <= pl.col("q_0.9"))).all()
    ).item()
    assert made["model"].unique().to_list() == ["ensemble"]
    assert made.null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize("kind", ["release", "strided"])
def test_a_batch_of_cutoffs_is_one_at_a_time(kind, request):
    release, rows = request.getfixturevalue(kind), small_rows()
    cutoffs = [cutoff_at(d) for d in (250, 300, 338, 339, 340, 341, 342, 360, 397, LAST)]
    single = pl.concat([predict_cutoffs(release, rows, [at]) for at in reversed(cutoffs)])
    assert_frame_equal(predict_cutoffs(release, rows, cutoffs), FORECAST.conform(single), rel_tol=1e-9)


def test_a_tail_of_the_rows_gives_the_same_forecasts(release):
    first = cutoff_at(SEEN - release.schema.lookback_steps)
    tail = release.rows.filter(pl.col("known_at") >= first)
    cutoffs = [cutoff_at(d) for d in range(SEEN, LAST + 1, 7)]
    assert tail.height < release.rows.height / 3
    assert_frame_equal(
        predict_cutoffs(release, tail, cutoffs), predict_cutoffs(release, release.rows, cutoffs), rel_tol=1e-9
    )


@pytest.mark.parametrize("day", [SEEN - 40, SEEN, LAST - 20])
def test_rows_after_the_cutoff_change_nothing(release, day):
    at = cutoff_at(day)
    known = release.rows.filter(pl.col("known_at") <= at)
    wild = release.rows.with_columns(load=pl.when(pl.col("known_at") > at).then(1e6).otherwise("load"))
    expected = predict_cutoffs(release, known, [at])
    assert expected.height == 10
    assert_frame_equal(predict_cutoffs(release, release.rows, [at]), expected)
    assert_frame_equal(predict_cutoffs(release, wild, [at]), expected)


def test_a_correction_known_later_changes_later_cutoffs_only(release):
    corrected = SERIES.conform(
        pl.concat(
            [
                release.rows,
                pl.DataFrame(
                    {
                        "series_id": "north",
                        "event_time": START + timedelta(days=370),
                        "known_at": cutoff_at(372),
                        "load": 500.0,
                    }
                ),
            ]
        )
    )
    cutoffs = [cutoff_at(d) for d in range(365, 380)]
    before, after = (
        predict_cutoffs(release, release.rows, cutoffs),
        predict_cutoffs(release, corrected, cutoffs),
    )
    early = pl.col("cutoff") < cutoff_at(372)
    assert_frame_equal(after.filter(early), before.filter(early))
    changed = after.filter(~early, series_id="north")
    assert (changed["y_hat"] - before.filter(~early, series_id="north")["y_hat"]).abs().min() > 0
    assert_frame_equal(after.filter(series_id="south"), before.filter(series_id="south"))


def test_late_rows_are_used_once_they_are_known_and_replayed_as_they_were(release):
    """Each cutoff sees what was known at it, so forecasts at early cutoffs are those of the rows
    cut there."""
    late = release.rows.with_columns(
        known_at=pl.when((pl.col("series_id") == "south") & (pl.col("event_time").dt.ordinal_day() % 5 == 0))
        .then(pl.col("known_at") + pl.duration(days=2, hours=6))
        .otherwise("known_at")
    )
    late = SERIES.conform(late)
    cutoffs = [cutoff_at(d) for d in (350, 358, 371)]
    batch = predict_cutoffs(release, late, cutoffs)
    for at in cutoffs:
        assert_frame_equal(
            predict_cutoffs(release, select_as_of(late, at), [at]), batch.filter(cutoff=at), rel_tol=1e-9
        )


def test_a_cutoff_between_two_steps_speaks_from_the_last_step_with_all_that_is_known(release):
    between = cutoff_at(380) + timedelta(hours=7)
    assert_frame_equal(
        predict_cutoffs(release, release.rows, [between]),
        predict_cutoffs(release, release.rows, [cutoff_at(380)]),
    )
    arrived = release.rows.with_columns(
        known_at=pl.when(pl.col("event_time") == START + timedelta(days=380))
        .then(between)
        .otherwise("known_at"),
    )
    late = predict_cutoffs(release, SERIES.conform(arrived), [between])
    assert late["cutoff"].unique().to_list() == [cutoff_at(380)]
    assert late["y_hat"].to_list() == pytest.approx(
        predict_cutoffs(release, release.rows, [cutoff_at(380)])["y_hat"].to_list(), rel=0.05
    )
    assert (
        late["y_hat"].to_list()
        != predict_cutoffs(release, SERIES.conform(arrived), [cutoff_at(380)])["y_hat"].to_list()
    )


def test_the_replay_equals_one_walk_over_history_and_since(release):
    assert_is_one_walk(release)


def assert_is_one_walk(release):
    """An independent route: dense panel, all cutoffs from the history's first to the last in one
    `replay`."""
    about, features, calendar = release.about, release.features, release.calendar
    panel = build_panel(build_features(release.rows, about, features, calendar), release.dataset)
    first = int(panel.cutoff.search_sorted(release.history["cutoff"].min()))
    origins = np.arange(first, len(panel.cutoff))
    x = panel.x[origins].reshape(-1, panel.x.shape[2])
    shape = (len(origins), 2, 5)
    known = np.full(shape, len(origins))
    target = origins[:, None] + np.arange(1, 6)
    inside = target < len(panel.cutoff)
    padded = np.vstack([panel.known_pos, np.full((1, 2), len(panel.cutoff))])
    known = np.where(
        inside[:, None, :], padded[np.where(inside, target, -1)].transpose(0, 2, 1) - first, len(origins)
    )
    z = panel.get_targets(first, len(panel.cutoff)).astype(float)
    exact = np.vstack([panel.z, np.full((1, 2), np.nan)])[np.where(inside, target, -1)].transpose(0, 2, 1)
    assert np.allclose(z, exact, equal_nan=True, atol=1e-5)
    blend, point = release.ensemble, predict_ensemble(release, x)
    base = predict_quantile_bases(release, x, point)
    group = (
        compute_regime(blend.regime, x, release.schema).reshape(shape[:2]) if blend.regime else np.arange(2)
    )
    assert len(np.unique(group)) > 1
    line = Timeline(
        point.reshape(shape),
        np.ones(shape[:2]),
        exact,
        known,
        np.ones(len(origins), dtype=bool),
        group,
        release.kind,
        None if base is None else base.reshape(*shape, 3),
    )
    spec = CalibrationSpec(blend.residuals, blend.adapt_rate, blend.block, base is not None)
    state = release.kind.build_calibrator(about, spec, int(group.max()) + 1, 5)
    issued = calibrate(line, state, 4)
    made = predict_cutoffs(release, release.rows, [cutoff_at(int(o)) for o in origins if o >= SEEN])
    made = made.sort("cutoff", "series_id", "step")
    since = origins >= SEEN
    assert made["y_hat"].to_numpy() == pytest.approx(
        inverse_transform_target(about.target, issued.point[since]).ravel(), rel=1e-9
    )
    for q, column in enumerate(("q_0.1", "q_0.5", "q_0.9")):
        assert made[column].to_numpy() == pytest.approx(
            inverse_transform_target(about.target, issued.further[since][..., q]).ravel(), rel=1e-9
        )


def test_a_series_without_a_recent_value_is_absent_with_its_reason(release):
    stopped = release.rows.filter(
        (pl.col("series_id") == "north") | (pl.col("event_time") < START + timedelta(days=380))
    )
    for day, absent in ((382, False), (383, True)):
        made, why = (
            predict_cutoffs(release, stopped, [cutoff_at(day)]),
            find_absence_reasons(release, stopped, cutoff_at(day)),
        )
        assert ("south" not in made["series_id"]) == absent
        assert set(why) == ({"south"} if absent else set())
    assert "2021-01-14" in why["south"]
    nothing = release.rows.filter(series_id="south")
    assert find_absence_reasons(release, nothing, cutoff_at(LAST)) == {
        "north": "no value of load known by 2021-02-04 00:00:00Z"
    }


def test_there_is_no_forecast_before_the_first_row_or_long_after_the_last(release):
    for at in (START - timedelta(days=5), START, cutoff_at(LAST + 4), cutoff_at(LAST + 4000)):
        made = predict_cutoffs(release, release.rows, [at])
        assert made.is_empty()
        assert made.columns[-3:] == ["q_0.1", "q_0.5", "q_0.9"]
        assert set(find_absence_reasons(release, release.rows, at)) == {"north", "south"}
    assert predict_cutoffs(release, release.rows, [cutoff_at(LAST + 3)]).height == 10
    assert predict_cutoffs(release, release.rows, []).is_empty()
    assert predict_cutoffs(release, release.rows.clear(), [cutoff_at(LAST)]).is_empty()


def test_an_unknown_series_is_forecast_and_leaves_the_known_ones_alone(release):
    stranger = release.rows.filter(series_id="north").with_columns(
        series_id=pl.lit("stranger"), load=pl.col("load") * 3
    )
    at = [cutoff_at(LAST)]
    both = predict_cutoffs(release, SERIES.conform(pl.concat([release.rows, stranger])), at)
    assert_frame_equal(
        both.filter(pl.col("series_id") != "stranger"), predict_cutoffs(release, release.rows, at)
    )
    for made in (both.filter(series_id="stranger"), predict_cutoffs(release, stranger, at)):
        assert made.height == 5
        assert made.null_count().sum_horizontal().item() == 0


def test_without_a_history_the_quantiles_grow_from_its_own_forecasts(tmp_path):
    body = load_unsealed_release(build_small_body(tmp_path / "body", small_rows(), n_history=0))
    first = predict_cutoffs(body, small_rows(), [cutoff_at(SEEN)])
    assert first.height == 10
    assert first["q_0.1"].null_count() == 10
    later = predict_cutoffs(body, small_rows(), [cutoff_at(LAST)])
    assert later.null_count().sum_horizontal().item() == 0


def test_a_scaled_body_has_intervals_in_proportion_to_the_spread(tmp_path):
    body = load_unsealed_release(
        build_small_body(
            tmp_path / "body",
            small_rows(),
            features=small_features(scale="z_std_14"),
            about=small_about(primary_score="mae"),
        )
    )
    made = predict_cutoffs(body, small_rows(), [cutoff_at(LAST)])
    assert made.height == 10
    assert made["y_hat"].to_list() == pytest.approx(made["q_0.5"].to_list(), rel=0.1)


def test_z_hat_takes_no_rows_and_more_than_a_block(release):
    x = np.random.default_rng(0).normal(size=(9000, len(release.schema.columns))).astype(np.float32)
    assert predict_ensemble(release, x[:0]).shape == (0, 5)
    assert np.allclose(
        predict_ensemble(release, x),
        np.vstack([predict_ensemble(release, x[:100]), predict_ensemble(release, x[100:])]),
        atol=1e-6,
    )


def test_a_cutoff_counts_as_a_moment_whatever_its_zone(release):
    at = cutoff_at(LAST)
    assert_frame_equal(
        predict_cutoffs(release, release.rows, [at.astimezone(timezone(timedelta(hours=-5)))]),
        predict_cutoffs(release, release.rows, [at]),
    )
    with pytest.raises(ReleaseError, match="has no time zone"):
        predict_cutoffs(release, release.rows, [at.replace(tzinfo=None)])
