"""Real tables, each column once the target and the others known beside it: nothing leaks there."""

import json

import leak_plants as plants
import numpy as np
import polars as pl
import pytest
import wizard_runs as runs

from tasks.core.calendar import build_calendar
from tasks.edges.params import read_about, read_params
from tasks.features import FeatureParams
from tasks.features.grid import get_time_span
from tasks.features.leaks import find_leaks
from tasks.features.stage import build_feature_set

pytestmark = pytest.mark.shared

LOADS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
MARKET = ("nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
COINS = ("BTC", "ETH", "XRP", "LTC", "BNB", "ADA")
UNIVARIATE = (
    "nab/data/*/*.csv",
    "prophet/*.csv",
    "epf/NP_price.csv",
)


def verdict_of(columns, target, season_steps, horizon_steps):
    others = tuple(c for c in columns if c != target)
    values = {"load": columns[target], **{c: columns[c] for c in others}}
    rows = plants.rows_of({"s": values}, list(values))
    listed = [
        spec
        for c in others
        for spec in (
            {"kind": "value", "column": c},
            {"kind": "lag", "column": c, "steps": [1, season_steps]},
            {"kind": "mean", "column": c, "window_steps": [season_steps]},
        )
    ]
    return plants.verdict_of(rows, horizon_steps, listed, others, season_steps)


@pytest.mark.parametrize("target", LOADS)
def test_a_transformers_loads_and_its_oil_say_nothing_of_later_hours(shared_data, target):
    table = pl.read_csv(shared_data / "ett/ETTh1.csv")
    for horizon_steps in (24, 96):
        verdict = verdict_of({c: table[c].to_numpy() for c in LOADS}, target, 24, horizon_steps)
        assert verdict.findings == (), horizon_steps


@pytest.mark.parametrize("target", MARKET)
def test_two_markets_of_electricity_say_nothing_of_later_half_hours(shared_data, target):
    table = pl.read_csv(shared_data / "streams/elec.csv")
    assert verdict_of({c: table[c].to_numpy() for c in MARKET}, target, 48, 12).findings == ()


@pytest.mark.parametrize("coin", COINS)
@pytest.mark.parametrize("target", ["volatility", "volume"])
def test_a_coins_bars_say_nothing_of_later_hours(shared_data, coin, target):
    bars = np.array(json.loads((shared_data / f"binance_1h/{coin}_USDT-1h.json").read_text()), dtype=float)
    _, open_, high, low, close, volume = bars.T
    hour = np.log(close / open_)
    spread = 0.5 * np.log(high / low) ** 2 - (2 * np.log(2) - 1) * hour**2
    columns = {
        "volatility": np.log(np.sqrt(np.maximum(spread, 1e-10))),
        "volume": np.log1p(volume),
        "hour": hour,
        "fall": np.minimum(hour, 0.0),
        "move": np.abs(hour),
        "close": close,
    }
    assert verdict_of(columns, target, 24, 12).findings == ()


@pytest.mark.chaos
@pytest.mark.parametrize("pattern", UNIVARIATE)
def test_the_wizards_entries_of_real_series_have_no_leak(shared_data, tmp_path, pattern):
    paths = sorted(shared_data.glob(pattern))
    assert paths
    for number, path in enumerate(paths):
        root = tmp_path / str(number)
        root.mkdir()
        runs.made_current(root, runs.proposed(path))
        rows, about, params = (
            runs.ingested(root),
            read_about(root),
            read_params("features", FeatureParams, root),
        )
        calendar = build_calendar(about, reach=get_time_span(rows))
        rows = rows.filter(calendar.is_on_grid(rows["event_time"]))  # validate quarantines the others
        made = build_feature_set(rows, about, params)
        assert find_leaks(rows, about, params, made.table, made.calendar).findings == (), path.name
