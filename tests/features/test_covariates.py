"""Covariates from the rows to a forecast: known ahead, of other series, static; in the table, in
a fit, in a release."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from small_release import START, build_small_release, cutoff_at, small_about, small_features

from deployments.forecaster.loaded import LoadedRelease, ReleaseChoice
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import parse_request
from deployments.forecaster.response import build_response
from tasks.core.calendar import build_calendar
from tasks.core.dataset import Dataset
from tasks.core.errors import FeatureInputError
from tasks.core.frames import SERIES
from tasks.core.panel import build_panel
from tasks.explain.params import ExplainParams
from tasks.explain.stage import explain_release
from tasks.features import FeatureParams, build_feature_schema, build_features, find_newest_step
from tasks.features.stage import build_feature_set
from tasks.release import load_release, predict_cutoffs
from tasks.release.outputs import predict_ensemble
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

ABOUT = small_about(season_steps=1, covariates={"past": [], "known_ahead": ["price"], "static": ["size"]})
FEATURES = small_features(
    list=[
        {"kind": "lag", "column": "z", "steps": [1]},
        {"kind": "mean", "column": "z", "window_steps": [7]},
        {"kind": "ahead", "column": "price"},
        {"kind": "static", "column": "size"},
        {"kind": "cross", "column": "z", "of": ["others_mean"]},
    ]
)
CALENDAR = build_calendar(ABOUT)


def priced_rows(n_steps=300, ahead_steps=8, seed=3):
    """Loads that nothing explains but the day's price, which is said 8 days before, first 1 too
    high and corrected a day later."""
    rng, parts = np.random.default_rng(seed), []
    for k, name in enumerate(("north", "south")):
        days = np.arange(n_steps + ahead_steps)
        price = rng.standard_normal(len(days))
        times = pl.Series([START + timedelta(days=int(d)) for d in days]).cast(pl.Datetime("us", "UTC"))
        load = np.exp(4 + 0.3 * price + 0.01 * rng.standard_normal(len(days)))
        frame = pl.DataFrame(
            {
                "series_id": name,
                "event_time": times,
                "known_at": times.dt.offset_by("1d"),
                "load": load,
                "price": price,
                "size": float(k),
            }
        )
        said = frame.with_columns(
            load=pl.lit(None, pl.Float64), known_at=pl.col("event_time") - timedelta(days=7)
        )
        first = said.with_columns(pl.col("price") + 1, known_at=pl.col("event_time") - timedelta(days=8))
        parts += [frame.head(n_steps), said.head(n_steps + ahead_steps - 1), first]
    return SERIES.conform(pl.concat(parts))


@pytest.fixture(scope="module")
def rows():
    return priced_rows()


@pytest.fixture(scope="module")
def found(rows):
    return build_feature_set(rows, ABOUT, FEATURES)


def test_the_last_origin_is_the_last_step_with_a_value_and_sees_what_is_said_of_the_horizon(rows, found):
    last = found.table.filter(pl.col("series_id") == "south").row(-1, named=True)
    assert last["event_time"] == find_newest_step(rows, ABOUT, CALENDAR) == START + timedelta(days=299)
    said = rows.filter(pl.col("series_id") == "south", pl.col("load").is_null())
    for s in range(1, 6):
        price = (
            said.filter(pl.col("event_time") == START + timedelta(days=299 + s))
            .sort("known_at")["price"]
            .to_list()
        )
        assert last[f"price_ahead_{s}"] == pytest.approx(price[-1], rel=1e-6)
    assert found.table["size_static"].unique().sort().to_list() == [0.0, 1.0]
    assert found.gaps.root["north"].model_dump() == {"n_steps": 300, "n_gap_steps": 0, "longest_gap": None}


def test_a_ridge_wins_where_only_what_is_known_ahead_explains_the_target(found):
    walk = TrainParams(n_cutoffs=40, stride_steps=2, refit_every_cutoffs=20, min_train_steps=100)
    blind = build_feature_set(
        priced_rows(),
        ABOUT,
        FEATURES.model_copy(update={"list": tuple(s for s in FEATURES.list if s.kind != "ahead")}),
    )
    mae = {}
    for name, model, features in (
        ("seeing", "ridge", found),
        ("blind", "ridge", blind),
        ("mean", "window_mean", found),
    ):
        own = {"window_steps": 7} if model == "window_mean" else {}
        data = TrainingData(features.table, Dataset(ABOUT, features.calendar, features.schema), 30)
        mae[name] = fit_model(model, data, walk, own, log=lambda _: None).metrics.overall["mae"]
    assert mae["seeing"] < 0.1 * min(mae["blind"], mae["mean"])


@pytest.fixture(scope="module")
def release(rows, tmp_path_factory):
    """Its rows are all of them; those said ahead travel along."""
    folder = tmp_path_factory.mktemp("ahead") / "release"
    build_small_release(folder, rows, about=ABOUT, features=FEATURES, weights={"ridge": 1.0})
    return load_release(folder)


def test_a_release_speaks_from_the_same_numbers_as_the_table(rows, found, release):
    """At cutoffs on the grid and between two steps, for the newest origin too, whose horizon has
    not begun."""
    panel = build_panel(found.table, Dataset(ABOUT, found.calendar, found.schema))
    for at, day in ((cutoff_at(280), 280), (cutoff_at(280) + timedelta(hours=5), 280), (cutoff_at(299), 299)):
        x, where = panel.get_inputs(np.array([day]))
        expected = {
            panel.series_ids[series]: predict_ensemble(release, x[[i]])[0]
            for i, (_, series) in enumerate(where)
        }
        made = predict_cutoffs(release, rows, [at])
        assert made["cutoff"].unique().to_list() == [cutoff_at(day)]
        for name, z in expected.items():
            y_hat = made.filter(pl.col("series_id") == name)["y_hat"].to_numpy()
            assert np.abs(np.log(y_hat) - z).max() < 0.02  # but for the level factor of the blend


def test_a_late_row_of_another_series_is_not_seen_before_it_came(rows, release):
    hidden = (
        (pl.col("series_id") == "south")
        & (pl.col("event_time") == START + timedelta(days=290))
        & pl.col("load").is_not_null()
    )
    late = SERIES.conform(
        rows.with_columns(
            known_at=pl.when(hidden).then(pl.col("known_at") + timedelta(days=3)).otherwise("known_at")
        )
    )
    without = rows.filter(~hidden)
    at = cutoff_at(290)
    assert predict_cutoffs(release, late, [at]).equals(predict_cutoffs(release, without, [at]))
    assert not predict_cutoffs(release, rows, [at]).equals(predict_cutoffs(release, without, [at]))
    table = build_feature_set(late, ABOUT, FEATURES).table.filter(
        pl.col("event_time") == START + timedelta(days=290)
    )
    assert table.filter(pl.col("series_id") == "north")["z_cross_others_mean"].to_list() == [None]


def test_a_history_of_one_series_cannot_bring_what_others_and_plans_say(rows, release):
    loaded = LoadedRelease(
        release, release.manifest, ReleaseChoice(release.folder, "1", "setting"), rows, (), "v"
    )
    row = {"event_time": "2020-10-26T00:00:00Z", "load": 50.0, "price": 0.1, "size": 1.0}
    with pytest.raises(ProblemError, match=r"history: this release reads price_ahead_1.*and more") as refused:
        build_response(
            loaded,
            parse_request(json.dumps({"series_id": "mine", "history": [row]}).encode()),
            datetime.now(UTC),
        )
    assert refused.value.status == 422
    assert refused.value.body["next"].startswith("Request by series_id")
    made = build_response(loaded, parse_request(b'{"series_id": "south"}'), datetime.now(UTC))
    expected = predict_cutoffs(release, rows, [rows["known_at"].max()]).filter(pl.col("series_id") == "south")
    (south,) = json.loads(made.content)["series"]
    assert [step["y_hat"] for step in south["steps"]] == expected["y_hat"].to_list()


def test_the_last_forecast_is_explained_from_the_last_step(rows, release):
    said = explain_release(release, rows, ExplainParams(n_sample=4, n_background=4))
    assert said.attributions["cutoff"].max() == cutoff_at(299)


@pytest.mark.parametrize(
    ("features", "about", "words"),
    [
        (
            [{"kind": "ahead", "column": "size"}],
            {},
            r"ahead of 'size', but `about.covariates.known_ahead` has \['price'\]",
        ),
        (
            [{"kind": "static", "column": "price"}],
            {},
            r"static of 'price', but `about.covariates.static` has \['size'\]",
        ),
        (
            [{"kind": "ahead", "column": "pirce"}],
            {"known_ahead": ["pirce"]},
            "'pirce_ahead_1' reads column 'pirce', .* Did you mean 'price'",
        ),
        (
            [{"kind": "ahead", "column": "size"}],
            {"known_ahead": ["size"], "static": []},
            "no row has it before its step is over",
        ),
        ([], {"static": ["price"]}, "series 'north' has -.* there. A column that changes over time"),
        ([], {"static": ["colour"]}, "`about.covariates.static` has 'colour', which is missing"),
        (
            [{"kind": "cross", "column": "z", "of": ["series"], "series_id": "west"}],
            {},
            r"reads series 'west', which is missing; there are \['north', 'south'\]",
        ),
    ],
)
def test_a_covariate_that_cannot_be_is_named_with_the_way_out(rows, features, about, words):
    declared = ABOUT.model_copy(
        update={"covariates": ABOUT.covariates.model_copy(update={k: tuple(v) for k, v in about.items()})}
    )
    if about.get("known_ahead") == ["size"]:
        rows = rows.filter(pl.col("load").is_not_null())
    with pytest.raises(FeatureInputError, match=words):
        build_feature_set(rows, declared, FeatureParams.model_validate({"list": features}))


def test_a_static_value_outlives_a_gap_as_long_as_the_last_value_does(rows):
    one = rows.filter(pl.col("series_id") == "south", pl.col("load").is_not_null()).head(3)
    table = build_features(one, ABOUT, FEATURES, CALENDAR, last_step=START + timedelta(days=8))
    assert table["size_static"].to_list() == [1.0] * 6 + [None] * 3
    assert (
        build_feature_schema(ABOUT, FEATURES)
        .columns[build_feature_schema(ABOUT, FEATURES).index("size_static")]
        .lookback_steps
        == 3
    )
