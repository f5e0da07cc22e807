"""Figures of rows, against pandas and scipy; what is asked badly or costs too much is refused."""

import json
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_release import START

from deployments.forecaster import analysis
from deployments.forecaster.loaded import LoadedRelease, ReleaseChoice
from deployments.forecaster.problems import ProblemError
from tasks.core import statistics
from tasks.release import load_release

VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, 2.0, np.nan])
columns = st.integers(0, 40).flatmap(lambda n: arrays(np.float64, (2, n), elements=VALUES))
law = settings(max_examples=60, deadline=None)


def same(found, expected):
    if found is None:
        assert not np.isfinite(expected)
    else:
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@law
@given(columns)
def test_figures_are_those_of_pandas_and_scipy(pair):
    a, b = map(pd.Series, pair)
    mean, std = statistics.compute_moments(pair[0])
    same(mean, a.mean())
    same(std, a.std())
    quantiles = statistics.compute_quantiles(pair[0])
    for q, value in quantiles.items():
        same(value, a.quantile(float(q)))
    edges, counts = statistics.compute_histogram(pair[0], 7)
    known = a.dropna()
    if len(known):
        last = known[known == known.max()]
        binned = pd.cut(known.drop(last.index), edges, right=False).value_counts(sort=False)
        assert [*counts[:-1], counts[-1] - len(last)] == binned.tolist() or len(set(known)) == 1
        assert sum(counts) == len(known)
    if (~(a.isna() | b.isna())).sum() >= 3:
        pairs = pd.DataFrame({"a": a, "b": b}).dropna()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a constant
            if pairs.std().gt(1e-3).all():
                same(statistics.compute_pearson(*pair), scipy.stats.pearsonr(*pairs.to_numpy().T).statistic)
            same(statistics.compute_spearman(*pair), scipy.stats.spearmanr(*pairs.to_numpy().T).statistic)
    else:
        assert statistics.compute_pearson(*pair) is statistics.compute_spearman(*pair) is None
    if len(a) > 4 and a.std() > 1e-3 and (n := (~(a.isna() | a.shift(2).isna())).sum()) >= 3:
        both = pd.DataFrame({"a": a, "b": a.shift(2)}).dropna()
        if both.std().gt(1e-3).all():
            assert n == statistics.count_pairs(pair[0], statistics.lag(pair[0], 2))
            same(statistics.compute_autocorrelation(pair[0], 2), a.autocorr(2))


def test_the_largest_and_smallest_values_have_figures():
    for factor in (1.7e308, 5e-324):
        values = np.array([1.0, -1.0, 1.0, -1.0, 0.0]) * factor
        assert statistics.compute_moments(values)[0] == 0
        assert statistics.compute_pearson(values, values) == pytest.approx(1)
        assert statistics.compute_histogram(values, 2)[1] == [2, 3]
        json.dumps(
            [statistics.compute_quantiles(values), *statistics.compute_histogram(values, 3)], allow_nan=False
        )


def ask(server, what, **body):
    return server.client.post(f"/api/v1/analyze/{what}", json=body)


def test_each_route_describes_the_rows_that_it_names(server, all_rows):
    start, end = (START + pd.Timedelta(days=d) for d in (100, 160))
    place = {"series_id": "south", "start": start.isoformat(), "end": end.isoformat()}
    load = all_rows.filter((pl.col("series_id") == "south") & pl.col("event_time").is_between(start, end))[
        "load"
    ].to_pandas()
    (described,) = ask(server, "describe", **place).json()["series"]
    assert (described["n_steps"], described["columns"]["load"]["n"]) == (61, 61)
    same(described["columns"]["load"]["autocorrelation"]["7"], load.autocorr(7))
    (counted,) = ask(server, "distribution", **place, bins=4).json()["series"]
    assert sum(counted["columns"]["load"]["counts"]) == 61
    (related,) = ask(server, "correlation", **place, lag_steps=[1, 7]).json()["series"]
    assert related["names"] == ["load", "load_lag_1", "load_lag_7"]
    assert related["n"] == [[61, 60, 54], [60, 60, 54], [54, 54, 54]]
    same(related["pearson"][0][2], load.corr(load.shift(7)))
    same(related["spearman"][0][1], load.corr(load.shift(1), method="spearman"))
    assert [s["series_id"] for s in ask(server, "describe").json()["series"]] == ["north", "south"]


def test_posted_rows_are_read_as_an_own_history(server):
    history = [{"event_time": f"2021-01-{d:02}T00:00:00Z", "load": float(d)} for d in (1, 2, 5)]
    answer = ask(server, "describe", series_id="mine", history=history).json()
    (described,) = answer["series"]
    assert answer["rows_version"] is None
    assert (described["n_steps"], described["columns"]["load"]["n_missing"]) == (5, 2)
    bad = ask(server, "describe", series_id="mine", history=[*history, history[0]])
    assert (bad.status_code, "there twice" in bad.json()["fact"]) == (422, True)


REFUSED = {
    "an unknown series": ({"series_id": "nort"}, 404, "Did you mean north"),
    "an unknown column": ({"columns": ["lod"]}, 422, "Did you mean 'load'"),
    "an unknown key": ({"bins": 3}, 422, "unknown key"),
    "a time without zone": ({"start": "2021-01-01"}, 422, "no zone"),
    "rows without a name": ({"history": [{}]}, 422, "Send its name"),
    "no rows": ({"series_id": "mine", "history": []}, 422, "list of rows"),
    "a list": ([], 422, "body"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_is_refused(server, case):
    body, status, said = REFUSED[case]
    reply = server.client.post("/api/v1/analyze/describe", json=body)
    assert (reply.status_code, said in reply.json()["detail"]) == (status, True), reply.text


def test_a_range_without_rows_has_no_figures(server):
    for what in ("describe", "correlation", "distribution"):
        (found,) = ask(server, what, series_id="north", start="2030-01-01T00:00:00Z").json()["series"]
        assert (found["first"], found["n_steps"]) == (None, 0)


def test_more_values_than_the_limit_are_refused(releases, monkeypatch):
    release = load_release(releases / "first")
    choice = ReleaseChoice(release.folder, "1", "setting")
    loaded = LoadedRelease(release, release.manifest, choice, release.rows, (), "")
    monkeypatch.setattr(analysis, "MAX_VALUES", 800)
    assert analysis.describe_rows(loaded, b"{}")["series"]
    with pytest.raises(ProblemError) as caught:
        analysis.correlate_rows(loaded, b"{}")
    assert (caught.value.status, caught.value.body["fact"]) == (422, "800 rows x 3")
