from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tasks.core import scores
from tasks.core.errors import ScoreInputError
from tasks.core.frames import FORECAST
from tasks.core.score_table import (
    INTERVAL_SCORES,
    SCORES,
    build_skill_table,
    compute_mean_scores,
    compute_series_scales,
    score_elements,
)

QUANTILES = (0.1, 0.5, 0.9)
START = datetime(2020, 11, 1, tzinfo=UTC)
SEASON = 2


def _forecasts(seed=0, models=("m", "naive"), n_cutoffs=5, n_steps=3):
    """Two series, cutoffs a month apart; some y not known yet."""
    rng = np.random.default_rng(seed)
    cutoffs = pl.datetime_range(
        START, interval="1mo", end=START + timedelta(days=31 * n_cutoffs), eager=True
    ).head(n_cutoffs)
    keys = pl.DataFrame({"series_id": ["a", "b"]}).join(cutoffs.to_frame("cutoff"), how="cross")
    keys = keys.join(pl.DataFrame({"step": np.arange(1, n_steps + 1, dtype=np.int32)}), how="cross")
    y = pl.Series(np.where(rng.random(keys.height) < 0.2, np.nan, rng.gamma(2, size=keys.height))).fill_nan(
        None
    )
    parts = []
    for model in models:
        q = np.sort(rng.gamma(2, size=(keys.height, 3)), axis=1)
        parts.append(
            keys.with_columns(
                model=pl.lit(model),
                event_time="cutoff",
                y=y,
                y_hat=q[:, 1],
                **{f"q_{q:g}": c for q, c in zip(QUANTILES, q.T, strict=True)},
            )
        )
    return FORECAST.conform(pl.concat(parts))


def _history(seed=1):
    rng = np.random.default_rng(seed)
    return pl.concat(
        pl.DataFrame(
            {
                "series_id": s,
                "event_time": [START - timedelta(days=40 - i) for i in range(40)],
                "y": rng.gamma(2, size=40),
            }
        )
        for s in ("a", "b")
    )


@pytest.mark.parametrize("by", [(), ("series_id",), ("step",), ("cutoff",), ("year",), ("series_id", "step")])
def test_a_table_holds_the_scores_of_its_parts(by):
    """Against the free functions, part by part."""
    history, forecasts = _history(), _forecasts()
    table = compute_mean_scores(
        score_elements(
            forecasts,
            SCORES,
            primary="mae",
            quantiles=QUANTILES,
            scales=compute_series_scales(history, SEASON),
        ),
        by,
    )
    parts = (
        forecasts.drop_nulls("y")
        .with_columns(year=pl.col("cutoff").dt.year())
        .partition_by("model", *by, as_dict=True)
    )
    assert table.height == len(parts)
    for row in table.iter_rows(named=True):
        part = parts[tuple(row[k] for k in ("model", *by))]
        y, y_hat, low, high = (part[c].to_numpy() for c in ("y", "y_hat", "q_0.1", "q_0.9"))
        q_hat = part.select("q_0.1", "q_0.5", "q_0.9").to_numpy()
        past = [history.filter(series_id=s)["y"].to_numpy() for s in part["series_id"]]
        by_hand = {
            "mae": scores.mae(y, y_hat),
            "rmse": scores.rmse(y, y_hat),
            "bias": scores.bias(y, y_hat),
            "mape_pct": scores.mape(y, y_hat),
            "smape_pct": scores.smape(y, y_hat).mean(),
            "qlike": scores.qlike(y, y_hat).mean(),
            "coverage_frac": scores.coverage(y, low, high),
            "width": (high - low).mean(),
            "crps": scores.crps_from_quantiles(y, q_hat, QUANTILES).mean(),
            "pinball": np.mean([scores.pinball(y, q_hat[:, i], q) for i, q in enumerate(QUANTILES)]),
            "interval_score": scores.interval_score(y, low, high, 0.8).mean(),
            "primary": scores.mae(y, y_hat),
            "n": len(y),
            "mase": np.mean(
                [scores.mase(y[i : i + 1], y_hat[i : i + 1], p, SEASON) for i, p in enumerate(past)]
            ),
            "rmsse": np.mean(
                [scores.rmsse(y[i : i + 1], y_hat[i : i + 1], p, SEASON) ** 2 for i, p in enumerate(past)]
            )
            ** 0.5,
            "msis": np.mean(
                [
                    scores.msis(y[i : i + 1], low[i : i + 1], high[i : i + 1], 0.8, p, SEASON)
                    for i, p in enumerate(past)
                ]
            ),
        }
        assert {name: row[name] for name in by_hand} == pytest.approx(by_hand)


def test_skill_compares_only_what_both_have_forecast():
    forecasts = _forecasts()
    known = forecasts.drop_nulls("y")
    half = forecasts.filter((pl.col("model") == "m") | (pl.col("series_id") == "a"))
    row = (
        build_skill_table(score_elements(half, ["mae", "rmse"]), "naive", "mae")
        .filter(model="m")
        .row(0, named=True)
    )
    ours, theirs = (known.filter(model=m, series_id="a") for m in ("m", "naive"))
    assert row["n_shared"] == ours.height
    expected = scores.skill(
        scores.mae(ours["y"].to_numpy(), ours["y_hat"].to_numpy()),
        scores.mae(theirs["y"].to_numpy(), theirs["y_hat"].to_numpy()),
    )
    assert row["skill_frac"] == pytest.approx(expected)
    assert (
        build_skill_table(score_elements(half, ["rmse"]), "naive", "rmse", by=["step"])
        .filter(model="naive")["skill_frac"]
        .to_list()
        == [0.0] * 3
    )


def test_nothing_known_gives_an_empty_table():
    nothing = _forecasts().with_columns(y=pl.lit(None, dtype=pl.Float64))
    assert compute_mean_scores(
        score_elements(nothing, ["mae", *INTERVAL_SCORES], quantiles=QUANTILES), ["step"]
    ).is_empty()


def test_a_series_without_a_scale_gets_no_scaled_score_and_the_others_keep_theirs():
    flat = _history().with_columns(y=pl.when(pl.col("series_id") == "a").then(1.0).otherwise("y"))
    table = compute_mean_scores(
        score_elements(_forecasts(), ["mase"], scales=compute_series_scales(flat, SEASON)), ["series_id"]
    )
    assert table.filter(series_id="a")["mase"].null_count() == 2
    assert table.filter(series_id="b")["mase"].null_count() == 0


@pytest.mark.parametrize(
    ("wanted", "says"), [("mea", "no score 'mea'"), ("crps", "needs quantiles"), ("mase", "series_scales")]
)
def test_a_score_that_cannot_be_had_says_what_it_needs(wanted, says):
    with pytest.raises(ScoreInputError, match=says):
        score_elements(_forecasts(), [wanted])


def test_skill_refuses_what_is_no_loss_and_a_baseline_that_is_not_there():
    scored = score_elements(_forecasts(), ["mae", "bias"])
    with pytest.raises(ScoreInputError, match="no loss 'bias'"):
        build_skill_table(scored, "naive", "bias")
    with pytest.raises(ScoreInputError, match="'last_value' has no known forecast"):
        build_skill_table(scored, "last_value", "mae")
