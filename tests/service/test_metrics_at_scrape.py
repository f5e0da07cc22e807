"""Ages are those of the moment of the scrape, the first one too; what-if is not served news."""

import re
from datetime import timedelta

import pytest
from servers import DATASET, crown, publish, serving
from small_release import START, build_small_release, cutoff_at, small_rows


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scraped")
    build_small_release(folder / "release", dataset=DATASET)
    crown(folder / "home", folder / "release")
    publish(folder / "home", small_rows(400))
    with serving(folder / "home") as server:
        yield server


def read_metric(server, name):
    values = re.findall(
        rf"^{name}(?:{{.*}})? (\S+)$", server.client.get("/api/v1/metrics").text, re.MULTILINE
    )
    return float(values[0]) if values else 0.0


def test_the_first_scrape_has_the_ages_and_each_later_one_those_of_its_moment(running):
    def compute_expected(n_days):
        return (START + timedelta(days=n_days)).timestamp()

    assert read_metric(running, "tidemill_rows_as_of_seconds") == compute_expected(400)
    seen_until = read_metric(running, "tidemill_release_seen_until_seconds")
    assert (
        read_metric(running, "tidemill_release_age_event_seconds") == compute_expected(400) - seen_until > 0
    )
    publish(running.home, small_rows(410))
    assert read_metric(running, "tidemill_rows_as_of_seconds") == compute_expected(410)
    assert read_metric(running, "tidemill_release_age_event_seconds") == compute_expected(410) - seen_until


def test_a_what_if_counts_apart_from_forecasts_of_the_newest_rows(running):
    names = ("tidemill_forecasts_served_total", "tidemill_forecasts_what_if_total")
    before = [read_metric(running, name) for name in names]
    history = [
        {"event_time": (START + timedelta(days=day)).isoformat(), "load": 100.0} for day in range(340, 380)
    ]
    for asked in ({}, {"as_of": cutoff_at(390).isoformat()}, {"history": history}):
        assert running.predict(series_id="north", **asked).status_code == 200
    after = [read_metric(running, name) for name in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 2]
