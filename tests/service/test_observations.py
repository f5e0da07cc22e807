"""Rows that a consumer sends: the verdict of each, what is stored, and the forecast from them."""

import itertools
import json
import random
import re
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from homes import at_home
from how_to_blocks import list_blocks, run_block
from pydantic import TypeAdapter
from refresh_runs import DATASET, build_root, refreshing, run_full_pass, write_meters
from servers import crown, serving
from small_release import START, build_small_release, small_about, small_rows

from deployments.forecaster.loaded import LoadedRelease, ReleaseChoice
from deployments.forecaster.observations import (
    DatasetContract,
    Observations,
    add_observations,
    parse_observations,
)
from deployments.forecaster.problems import ProblemError
from tasks.core.frames import SERIES
from tasks.edges.api_keys import create_key, read_own_key
from tasks.edges.files import compute_file_hash
from tasks.edges.observations import get_observations_path, get_quarantine_path, read_observations
from tasks.edges.processes import wait_for
from tasks.edges.registry import get_rows_path
from tasks.refresh.stage import refresh_rows
from tasks.release import load_release, predict_cutoffs
from tasks.validate.params import ValidateParams

ROWS = small_rows(420)
N_SEEN = 400
SEEN = ROWS.filter(pl.col("event_time") < START + timedelta(days=N_SEEN))
CONTRACT = {"columns": {"load": {"min": 0, "strict_min": True}}, "max_quarantine_frac": 0.02}
NOW = datetime(2024, 1, 1, tzinfo=UTC)
VERDICTS = ("added", "corrected", "unchanged", "quarantined")


def day(k):
    return START + timedelta(days=k)


def row(k, load, series="north", **further):
    return {"series_id": series, "event_time": day(k).isoformat(), "load": load, **further}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    build_small_release(folder, rows=SEEN, gate_steps=120, dataset=DATASET)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    release = load_release(folder)
    return LoadedRelease(release, release.manifest, ReleaseChoice(folder, "1", "test"), SEEN, (), "")


def send(loaded, rows, now=NOW):
    body = json.dumps({"rows": rows}).encode()
    contract = DatasetContract(small_about(), ValidateParams.model_validate(CONTRACT))
    return add_observations(loaded, contract, parse_observations(loaded, body, now), now)


def verdicts(answer):
    return [(verdict["verdict"], verdict["rule"]) for verdict in answer["rows"]]


def test_each_row_gets_its_verdict_and_the_file_has_those_that_are_new(loaded, tmp_path):
    old = SEEN.filter(series_id="north")["load"][10]
    sent = [
        row(400, 101.0),
        row(10, old),
        row(11, 99.0),
        row(401, -1.0),
        row(402, None),
        row(403, 5.0, "nort"),
        {**row(404, 5.0), "event_time": day(404.5).isoformat()},
        row(405, 5.0, known_at=day(405).isoformat()),
        row(12, 98.0, known_at=day(13).isoformat()),
        {**row(0, 5.0), "event_time": (NOW - timedelta(hours=24)).isoformat()},
        {**row(0, 5.0), "event_time": NOW.isoformat()},
    ]
    with at_home(tmp_path):
        answer = TypeAdapter(Observations).validate_python(send(loaded, sent))
        assert verdicts(answer) == [
            ("added", None),
            ("unchanged", None),
            ("corrected", None),
            ("quarantined", "load > 0"),
            ("quarantined", "load is known"),
            ("quarantined", "series is known"),
            ("quarantined", "on_grid"),
            ("quarantined", "known_at is after the step"),
            ("quarantined", "known_at is newer"),
            ("added", None),
            ("quarantined", "step is over"),
        ]
        stored = read_observations(get_observations_path(DATASET))
        assert stored.select("event_time", "known_at", "load").rows() == [
            (day(11), NOW, 99.0),
            (day(400), day(401), 101.0),
            (NOW - timedelta(days=1), NOW, 5.0),
        ]
        broken = pl.read_parquet(get_quarantine_path(DATASET))
        assert {"load is -1.0, not > 0", "load is missing"} < set(broken["reason"])
        assert broken.height == 7
        digest = compute_file_hash(get_observations_path(DATASET))
        again = send(loaded, sent)
        assert [verdict["verdict"] for verdict in again["rows"]].count("unchanged") == 4
        assert compute_file_hash(get_observations_path(DATASET)) == digest


def test_random_posts_leave_what_a_plain_model_of_vintages_has(loaded, tmp_path):
    """An oracle of its own: a dict from step to its list of (known_at, value)."""
    rng, vintages = random.Random(3), {}
    for name, when, known_at, load in SEEN.iter_rows():
        vintages[name, when] = [(known_at, load)]
    before = {key: list(value) for key, value in vintages.items()}
    with at_home(tmp_path):
        choices = list(itertools.product(("north", "south"), range(395, 410)))
        for k in range(40):
            now = NOW + timedelta(minutes=k)
            steps = rng.sample(choices, rng.randint(1, 9))
            sent = [row(at, rng.choice([1.0, 2.0, 3.0, -1.0]), series) for series, at in steps]
            expected = []
            for one in sent:
                key = one["series_id"], datetime.fromisoformat(one["event_time"])
                known = vintages.setdefault(key, [])
                if one["load"] < 0:
                    expected.append("quarantined")
                elif not known:
                    known.append((key[1] + timedelta(days=1), one["load"]))
                    expected.append("added")
                elif known[-1][1] == one["load"]:
                    expected.append("unchanged")
                else:
                    known.append((now, one["load"]))
                    expected.append("corrected")
            answer = send(loaded, sent, now)
            assert [verdict["verdict"] for verdict in answer["rows"]] == expected
            assert [answer[f"n_{name}"] for name in VERDICTS] == [expected.count(name) for name in VERDICTS]
        stored = read_observations(get_observations_path(DATASET)).sort(SERIES.key)
    new = sorted(
        (*key, *vintage) for key, list_ in vintages.items() for vintage in list_[len(before.get(key, [])) :]
    )
    assert stored.select("series_id", "event_time", "known_at", "load").rows() == new


@pytest.mark.parametrize(
    ("rows", "thing"),
    [
        ([], "rows"),
        ("north", "rows"),
        ([1], "rows.0"),
        ([{**row(1, 1.0), "laod": 1.0}], "rows.0"),
        ([{"series_id": "north", "event_time": "2020-01-01T00:00:00Z"}], "rows.0"),
        ([{**row(1, 1.0), "event_time": "2020-01-01"}], "rows.0.event_time"),
        ([{**row(1, 1.0), "event_time": 3}], "rows.0.event_time"),
        ([row(1, 1.0), row(2, "1.0")], "rows.1.load"),
        ([row(1, True)], "rows.0.load"),
        ([row(1, 1.0, known_at="2999-01-01T00:00:00Z")], "rows.0.known_at"),
        ([row(1, 1.0), row(1, 2.0)], "rows"),
    ],
)
def test_what_is_no_row_of_the_dataset_is_refused_as_a_whole(loaded, tmp_path, rows, thing):
    with at_home(tmp_path), pytest.raises(ProblemError) as caught:
        send(loaded, rows)
    assert (caught.value.status, caught.value.body["thing"]) == (422, thing)


def run_how_to(server, key):
    """The examples of the page, with the address, the series and the columns of this service."""
    ours = {"localhost:3000": f"127.0.0.1:{server.client.base_url.port}", "sp500": "north"}
    ours["2019-01-02"] = f"{day(N_SEEN):%F}"
    for language, text in list_blocks("send-observations"):
        of_here = re.sub(r'"open": .*?"volume": [\d.]+', '"load": 150.0', text)
        for name, own in ours.items():
            of_here = of_here.replace(name, own)
        done = run_block(language, of_here, key)
        assert re.search('^unchanged$|n_unchanged": 1', done.stdout, flags=re.MULTILINE), done


def test_a_row_that_was_sent_is_in_the_next_forecast_and_in_the_next_training(folder, tmp_path):
    root = build_root(tmp_path / "root")
    write_meters(root, SEEN)
    environment = {"TIDEMILL_CHECKOUT": str(root), "TIDEMILL_AUTH": "on"}
    with at_home(tmp_path / "home") as home:
        crown(home, folder)
        keys = {s: {"x-api-key": create_key(s, "acme", [s], [DATASET])} for s in ("write", "predict")}
        bytes_before = run_full_pass(root)
        with refreshing(root, tmp_path / "log"), serving(home, **environment) as server:
            ask = server.client.post
            sent = {"rows": [row(N_SEEN, 150.0), row(N_SEEN, 250.0, "south")]}
            assert ask("/api/v1/observations", json=sent, headers=keys["predict"]).status_code == 403
            assert wait_for(lambda: get_rows_path(DATASET).exists(), 30)
            answer = ask("/api/v1/observations", json=sent, headers=keys["write"])
            assert (answer.status_code, answer.json()["n_added"]) == (200, 2), answer.text
            run_how_to(server, keys["write"]["x-api-key"])
            document = server.client.get("/openapi.json", headers={"x-api-key": read_own_key()}).json()
            body = document["paths"]["/api/v1/observations"]["post"]["requestBody"]["content"]
            (example,) = body["application/json"]["examples"].values()
            again = ask("/api/v1/observations", json=example["value"], headers=keys["write"])
            assert again.json()["n_unchanged"] == 1
            began, request = time.monotonic(), {"series_id": ["north", "south"]}

            def is_in():
                found = ask("/api/v1/predict", json=request, headers=keys["predict"]).json()
                return found["series"][0]["as_of"] == f"{day(N_SEEN + 1):%FT%TZ}" and found

            assert wait_for(is_in, 20)
            assert time.monotonic() - began < 5
            rows = SERIES.check(pl.read_parquet(get_rows_path(DATASET)))
            expected = predict_cutoffs(load_release(folder), rows, [day(N_SEEN + 1)])
            got = [step["y_hat"] for series in is_in()["series"] for step in series["steps"]]
            assert got == pytest.approx(expected.sort("series_id", "step")["y_hat"].to_list(), rel=1e-9)
        assert rows.height == SEEN.height + 2
        # The files grow after that, and a training reads the same rows by itself
        write_meters(root, pl.concat([SEEN, ROWS.filter(pl.col("event_time") == day(N_SEEN + 1))]))
        refresh_rows(root, report=lambda _: None)
        assert (root / "data/source/.observations.jsonl").is_symlink()
        assert run_full_pass(root, links=False) == get_rows_path(DATASET).read_bytes() != bytes_before
        get_observations_path(DATASET).unlink()
        write_meters(root, SEEN)
        refresh_rows(root, report=lambda _: None)
        assert get_rows_path(DATASET).read_bytes() == bytes_before
