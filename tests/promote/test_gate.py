"""The gate: who passes and who does not, on real releases and on frames made by hand."""

import math
from datetime import timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from memoriser import build_memoriser
from small_release import START, build_small_release, cutoff_at, small_about, small_features, small_rows

from tasks.core.calendar import build_calendar
from tasks.core.dataset import Dataset
from tasks.core.frames import FORECAST
from tasks.core.panel import build_panel
from tasks.features import build_feature_schema, build_features
from tasks.promote.gate import compare_forecasts, list_gate_cutoffs, run_gate
from tasks.promote.params import PromoteParams
from tasks.promote.stage import decide_promotion
from tasks.release import load_release

PARAMS = PromoteParams(gate_steps=150, min_gate_rows=60, alpha=0.05, min_gain_frac=0.005)
ROWS = small_rows(500)
GATE = 150


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Sealed releases by name, loaded as served."""
    folder = tmp_path_factory.mktemp("gate")
    recipes = {
        "ridge": {"ridge": 1.0},
        "mixed": {"ridge": 0.6, "last_value": 0.2, "window_mean": 0.2},
        "last": {"last_value": 1.0},
        "seasonal": {"seasonal_naive": 1.0},
    }
    for name, weights in recipes.items():
        build_small_release(folder / name, rows=ROWS, gate_steps=GATE, weights=weights, model=name)
    build_memoriser(folder / "memoriser", ROWS, GATE)
    return {name: load_release(folder / name) for name in (*recipes, "memoriser")}


def test_a_truly_better_release_passes(built):
    gate = run_gate(built["ridge"], built["last"], ROWS, PARAMS)
    assert gate.passed
    assert gate.n_cutoffs == GATE - 5 + 1
    assert gate.gain_frac > 0.1
    assert gate.mean_loss.challenger < gate.mean_loss.opponent


def test_a_random_walk_does_not_pass(built):
    gate = run_gate(built["last"], built["ridge"], ROWS, PARAMS)
    assert gate.passed is False
    assert gate.gain_frac < 0


def test_the_opponents_forecasts_with_noise_on_top_never_pass():
    """Symmetric noise in 200 draws: a lower mean by luck is not enough.

    At the level of 5 %, a loss on average makes it rarer still.
    """
    rng = np.random.default_rng(5)
    truth, right = drawn(rng, n=80)
    passed = sum(
        bool(
            compare_forecasts(
                frame(right * np.exp(rng.normal(0, 0.03, right.shape)), truth),
                frame(right, truth),
                small_about(),
                PARAMS,
            ).passed
        )
        for _ in range(200)
    )
    assert passed <= 0.05 * 200


def test_a_memoriser_loses(built):
    """It knows every row that it was trained on by heart, and nothing else."""
    found = decide_promotion(built["memoriser"], built["ridge"], built["last"], ROWS, PARAMS)
    seen = [cutoff_at(day) for day in range(100, 330)]
    assert in_sample_loss(built["memoriser"], seen) < 0.05 * in_sample_loss(built["ridge"], seen)
    assert found.verdict.decision == "keep"
    assert found.verdict.gain_frac < 0


def test_equal_models_pass_no_more_often_than_stated():
    """A/A: two forecasts with errors of the same law, drawn afresh each time; the margin makes
    it rarer than alpha."""
    rng = np.random.default_rng(17)
    passed = 0
    for _ in range(400):
        truth, _ = drawn(rng, n=60)
        ours, theirs = (frame(truth * np.exp(errors(rng, truth.shape)), truth) for _ in range(2))
        passed += bool(compare_forecasts(ours, theirs, small_about(), PARAMS).passed)
    assert passed / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_large_series_does_not_drown_the_others():
    """Better on two of three series, worse on one that is a thousand times larger: the verdict
    goes by parts, not by kWh."""
    rng = np.random.default_rng(2)
    truth, right = drawn(rng, n=100, n_series=3)
    size = np.array([1000.0, 1.0, 1.0])[None, :, None]
    noisy = right * np.exp(rng.normal(0, 0.3, right.shape))
    ours, theirs = right.copy(), noisy.copy()
    ours[:, 0], theirs[:, 0] = noisy[:, 0], right[:, 0]
    assert (
        compare_forecasts(
            frame(ours * size, truth * size), frame(theirs * size, truth * size), small_about(), PARAMS
        ).gain_frac
        > 0.1
    )


def test_changing_places_changes_the_sign_and_nothing_else():
    rng = np.random.default_rng(8)
    truth, right = drawn(rng, n=90)
    noisy = frame(right * np.exp(rng.normal(0, 0.1, right.shape)), truth)
    one, other = (
        compare_forecasts(a, b, small_about(), PARAMS.model_copy(update={"min_gain_frac": 0.0}))
        for a, b in ((frame(right, truth), noisy), (noisy, frame(right, truth)))
    )
    assert one.p == pytest.approx(1 - other.p)
    assert (1 - one.gain_frac) * (1 - other.gain_frac) == pytest.approx(1.0)


def test_only_pairs_that_both_forecast_and_that_came_true_count():
    truth, right = drawn(np.random.default_rng(4), n=80)
    whole, unknown = frame(right, truth), truth.copy()
    unknown[70:] = np.nan
    gate = compare_forecasts(
        whole.filter(pl.col("cutoff") >= cutoff_at(3)), frame(right * 1.1, unknown), small_about(), PARAMS
    )
    assert gate.n_cutoffs == 77  # the challenger's y counts; the opponent's is the same truth
    assert compare_forecasts(frame(right, unknown), whole, small_about(), PARAMS).n_cutoffs == 70


def test_too_few_cutoffs_decide_nothing(built):
    """Both saw all but the last 150 steps; of these, 58 cutoffs have come true."""
    early = ROWS.filter(pl.col("event_time") < START + timedelta(days=350 + 58 + 4))
    gate = run_gate(built["ridge"], built["last"], early, PARAMS)
    assert (gate.passed, gate.n_cutoffs) == (None, 58)
    assert "min_gate_rows" in gate.reason
    assert (
        decide_promotion(built["ridge"], built["last"], built["seasonal"], early, PARAMS).verdict.decision
        == "inconclusive"
    )


def test_the_gate_begins_where_the_later_of_both_ends(built, tmp_path):
    build_small_release(tmp_path / "newer", rows=ROWS, gate_steps=100)
    cutoffs = list_gate_cutoffs(load_release(tmp_path / "newer"), built["last"], ROWS)
    assert cutoffs[0] == load_release(tmp_path / "newer").seen_until
    assert len(cutoffs) == 100 - 5 + 1


def test_the_same_release_is_nothing_to_decide(built):
    found = decide_promotion(built["ridge"], built["ridge"], built["last"], ROWS, PARAMS)
    assert (found.verdict.decision, found.verdict.winner_digest) == ("nothing", None)


def test_the_first_model_is_judged_against_the_baseline(built):
    better = decide_promotion(built["ridge"], None, built["last"], ROWS, PARAMS).verdict
    assert (better.decision, better.winner_digest) == ("promote", built["ridge"].manifest.digest)
    worse = decide_promotion(built["last"], None, built["ridge"], ROWS, PARAMS).verdict
    assert (worse.decision, worse.winner_digest) == ("baseline", built["ridge"].manifest.digest)
    assert "the baseline is served" in worse.reason


def test_losses_are_those_of_a_slow_twin(built):
    """Plain loops over the forecasts of both, squared errors, each series divided by the mean of
    both sides there."""
    from tasks.release import predict_cutoffs

    cutoffs = list_gate_cutoffs(built["mixed"], built["last"], ROWS)
    truth = {(r["series_id"], r["event_time"]): r["load"] for r in ROWS.iter_rows(named=True)}
    loss = {side: {} for side in ("mixed", "last")}
    for side, of_side in loss.items():
        for r in predict_cutoffs(built[side], ROWS, cutoffs).iter_rows(named=True):
            of_side[r["series_id"], r["cutoff"], r["step"]] = (
                r["y_hat"] - truth[r["series_id"], r["event_time"]]
            ) ** 2
    size = {}
    for name in ("north", "south"):
        both = [v for of_side in loss.values() for (series, _, _), v in of_side.items() if series == name]
        size[name] = sum(both) / len(both)
    means = {
        side: np.mean([v / size[series] for (series, _, _), v in of_side.items()])
        for side, of_side in loss.items()
    }
    gate = run_gate(built["mixed"], built["last"], ROWS, PARAMS)
    assert gate.gain_frac == pytest.approx(1 - means["mixed"] / means["last"], rel=1e-9)
    assert gate.mean_loss.challenger == pytest.approx(np.mean(list(loss["mixed"].values())), rel=1e-9)


def in_sample_loss(release, cutoffs):
    from tasks.release import predict_ensemble

    about, features = small_about(), small_features()
    schema, calendar = build_feature_schema(about, features), build_calendar(about)
    panel = build_panel(build_features(ROWS, about, features, calendar), Dataset(about, calendar, schema))
    rows = panel.cutoff.search_sorted(pl.Series(cutoffs)).to_numpy()
    x = panel.x[rows].reshape(-1, len(schema.columns))
    z = panel.get_targets(0, rows[-1] + 1)[rows].reshape(-1, 5)
    return float(np.mean((predict_ensemble(release, x) - z) ** 2))


def drawn(rng, n, n_series=2, steps=5):
    """Truth (n, S, H) of overlapping horizons, and a good forecast of it."""
    path = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, (n + steps, n_series)), axis=0))
    truth = np.stack([path[s + 1 : s + 1 + n] for s in range(steps)], axis=2)
    return truth, truth * np.exp(errors(rng, truth.shape))


def errors(rng, shape, rho=0.5, sd=0.1):
    out = rng.normal(0, sd, shape)
    for t in range(1, shape[0]):
        out[t] = rho * out[t - 1] + math.sqrt(1 - rho**2) * out[t]
    return out


def frame(y_hat, y):
    """FORECAST with y from arrays (n, S, H)."""
    return FORECAST.conform(
        keys(*y.shape).with_columns(y_hat=pl.Series(y_hat.ravel()), y=pl.Series(y.ravel()).fill_nan(None))
    )


@cache
def keys(n, n_series, steps):
    series = pl.DataFrame({"series_id": [f"s{i}" for i in range(n_series)]})
    cutoffs = pl.DataFrame({"cutoff": [cutoff_at(k) for k in range(n)]})
    crossed = cutoffs.join(series, how="cross").join(pl.DataFrame({"step": range(1, steps + 1)}), how="cross")
    return crossed.with_columns(
        event_time=pl.col("cutoff") + pl.duration(days=pl.col("step") - 1), model=pl.lit("m")
    )
