"""Which release speaks, and how another one takes over while requests go on."""

import asyncio
import shutil
import threading
from datetime import timedelta

import polars as pl
import pytest
from servers import DATASET, at, crown, digest_of, publish, serving
from small_release import build_small_release

from deployments.forecaster.loaded import LoadedRelease, ReleaseChoice
from deployments.forecaster.source import ReleaseSource
from tasks.edges.artifacts import read_json, write_json, write_text
from tasks.edges.served import count_served, read_served
from tasks.release import load_release, predict_cutoffs


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def running(home):
    with serving(home) as server:
        yield server


@pytest.fixture
def crowned(running, home, releases):
    """The server with `first` as champion, as if nothing had happened before."""
    for left_over in (home / "registry" / DATASET / "champion.json", home / "rows" / f"{DATASET}.parquet"):
        left_over.unlink(missing_ok=True)
    crown(home, releases / "first")
    running.wait_for(
        lambda said: (
            said["digest"] == digest_of(releases / "first")
            and said["rows_from"] == "release"
            and not said["faults"]
        )
    )
    return running


def test_a_new_champion_takes_over_and_no_request_is_dropped(crowned, home, releases):
    replies, stop = [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            replies.append(crowned.predict(series_id="north"))

    askers = [threading.Thread(target=keep_asking) for _ in range(4)]
    for asker in askers:
        asker.start()
    crowned.wait_for(lambda said: len(replies) > 10)
    crown(home, releases / "second")
    crowned.wait_for(lambda said: said["digest"] == digest_of(releases / "second"))
    n_then = len(replies)
    crowned.wait_for(lambda said: len(replies) > n_then + 10)
    stop.set()
    for asker in askers:
        asker.join()
    assert {r.status_code for r in replies} == {200}
    spoke = [r.json()["model"]["digest"] for r in replies]
    assert set(spoke) == {digest_of(releases / "first"), digest_of(releases / "second")}
    assert spoke[-1] == digest_of(releases / "second")
    assert "tidemill_release_swaps_total 0.0" not in crowned.client.get("/api/v1/metrics").text


def test_a_champion_that_does_not_verify_changes_nothing(crowned, home, releases, tmp_path):
    good, broken = tmp_path / "third", tmp_path / "broken"
    build_small_release(good, weights={"ridge": 1.0}, dataset=DATASET)
    shutil.copytree(good, broken)
    member = next((broken / "members").iterdir())
    member.write_bytes(member.read_bytes()[:-1] + b"!")
    crown(home, broken)
    said = crowned.wait_for(lambda said: said["faults"])
    assert said["ready"]
    assert said["digest"] == digest_of(releases / "first")
    assert member.name in said["faults"][0]
    assert crowned.predict(series_id="north").json()["model"]["digest"] == digest_of(releases / "first")
    assert "tidemill_release_fault 1.0" in crowned.client.get("/api/v1/metrics").text
    crown(home, good)
    assert crowned.wait_for(lambda said: said["digest"] == digest_of(good))["faults"] == []


def test_a_champion_file_of_garbage_changes_nothing(crowned, home):
    for garbage in ("", "{", '{"digest": "x"}'):
        (home / "registry" / DATASET / "champion.json").write_text(garbage)
        said = crowned.wait_for(lambda said: said["faults"])
        assert said["ready"]
        assert crowned.predict(series_id="north").status_code == 200


def test_a_champion_of_another_dataset_is_refused(crowned, home, tmp_path):
    build_small_release(tmp_path / "other", dataset="other")
    crown(home, tmp_path / "other")
    theirs, ours = (home / "registry" / name / "champion.json" for name in ("other", DATASET))
    write_json(ours, read_json(theirs))
    assert "'other'" in crowned.wait_for(lambda said: said["faults"])["faults"][0]
    assert crowned.predict(series_id="north").status_code == 200


def test_the_checkouts_current_dataset_is_followed_as_soon_as_it_has_a_champion(releases, tmp_path):
    """As `tidemill use` and `tidemill run` change it under a running service; each answer is
    recorded for the dataset that it is of."""
    build_small_release(tmp_path / "theirs", dataset="theirs")
    home, params = tmp_path / "home", tmp_path / "params.yaml"

    def use(name):
        write_text(params, f"dataset: {name}\ndatasets: {{{DATASET}: {{}}, theirs: {{}}}}\n")

    use(DATASET)
    crown(home, releases / "first")
    with serving(home, TIDEMILL_CHECKOUT=str(tmp_path)) as server:
        assert server.wait_for(lambda said: said["ready"])["dataset"] == DATASET
        use("theirs")
        said = server.wait_for(lambda said: said["faults"])
        assert (said["ready"], said["dataset"]) == (True, DATASET)
        assert "'theirs' has no champion yet" in said["faults"][0]
        assert server.predict(series_id="north").json()["dataset"] == DATASET
        crown(home, tmp_path / "theirs")
        assert server.wait_for(lambda said: said["dataset"] == "theirs")["faults"] == []
        made = server.predict(series_id="north").json()
        assert (made["dataset"], made["model"]["digest"]) == ("theirs", digest_of(tmp_path / "theirs"))
        write_text(params, "dataset: [")
        assert server.wait_for(lambda said: said["faults"])["dataset"] == "theirs"
        use(DATASET)
        assert server.wait_for(lambda said: said["dataset"] == DATASET)["faults"] == []
    with at(home):
        assert (count_served(DATASET)["n_answers"], count_served("theirs")["n_answers"]) == (1, 1)
        assert read_served("theirs")["digest"].unique().to_list() == [digest_of(tmp_path / "theirs")]


def test_published_rows_are_looked_back_on_as_soon_as_they_are_there(crowned, home, releases, all_rows):
    early = all_rows.filter(pl.col("known_at") <= all_rows["known_at"].unique().sort()[-31])
    for rows in (early, all_rows):
        publish(home, rows)
        crowned.client.get("/api/v1/health/ready")  # waits until they are read
        body = crowned.predict(series_id="north").json()
        expected = predict_cutoffs(load_release(releases / "first"), rows, [rows["known_at"].max()]).filter(
            pl.col("series_id") == "north"
        )
        assert [s["y_hat"] for s in body["series"][0]["steps"]] == pytest.approx(
            expected["y_hat"].to_list(), abs=1e-6
        )
    assert crowned.client.get("/api/v1/health/ready").json()["rows_from"] == "published"


def test_a_correction_that_is_published_changes_the_answer_from_when_it_was_known(crowned, home, all_rows):
    last = all_rows.filter(pl.col("series_id") == "north").tail(1)
    corrected = last.with_columns(pl.col("load") * 2, known_at=pl.col("known_at") + pl.duration(hours=5))
    publish(home, pl.concat([all_rows, corrected]).sort("series_id", "event_time", "known_at"))
    crowned.client.get("/api/v1/health/ready")
    before, after = (
        crowned.predict(series_id="north", as_of=t.isoformat()).json()
        for t in (last["known_at"][0], corrected["known_at"][0])
    )
    assert before["series"][0]["steps"][0]["y_hat"] < after["series"][0]["steps"][0]["y_hat"]
    assert before["series"][0]["as_of"] < after["series"][0]["as_of"]


def test_a_forecast_does_not_wait_for_new_rows_and_other_requests_do(releases, all_rows, tmp_path):
    source, reads = ReleaseSource(releases / "first", DATASET), threading.Event()
    load = source._load_newest_rows
    source._load_newest_rows = lambda current: reads.wait(30) and load(current)

    async def ask():
        former = await source.refresh()
        publish(tmp_path, all_rows.head(700))
        with at(tmp_path):
            assert [await source.refresh(waits=False) for _ in range(3)] == [former] * 3
            waiting = asyncio.create_task(source.refresh())
            await asyncio.sleep(0.05)
            assert not waiting.done()
            reads.set()
            newer = await waiting
            assert newer.rows.height == 700
            assert await source.refresh(waits=False) is newer

    with at(tmp_path):
        asyncio.run(ask())


def test_rows_that_cannot_be_read_leave_the_old_ones(crowned, home, all_rows):
    publish(home, all_rows)
    assert crowned.wait_for(lambda said: said["rows_from"] == "published")["faults"] == []
    (home / "rows" / f"{DATASET}.parquet").write_bytes(b"no parquet")
    said = crowned.wait_for(lambda said: said["faults"])
    assert said["ready"]
    assert crowned.predict(series_id="north").status_code == 200


def test_without_a_release_it_lives_says_why_and_is_ready_once_there_is_one(tmp_path, releases):
    """The dataset is then the checkout's own."""
    with serving(tmp_path) as running:
        assert running.client.get("/api/v1/health/live").status_code == 200
        ready = running.client.get("/api/v1/health/ready")
        assert ready.status_code == 503
        assert DATASET in ready.text
        refused = running.predict(series_id="north")
        assert refused.status_code == 503
        assert refused.json()["next"]
        crown(tmp_path, releases / "first")
        running.wait_for(lambda said: said["ready"])
        assert running.predict(series_id="north").status_code == 200


def test_the_newest_time_stays_at_hand_however_many_others_are_asked(releases, monkeypatch):
    monkeypatch.setattr("deployments.forecaster.loaded.MAX_CACHED_TIMES", 3)
    release = load_release(releases / "first")
    loaded = LoadedRelease(
        release, release.manifest, ReleaseChoice(release.folder, "1", "setting"), release.rows, (), "v"
    )
    loaded.predict(loaded.newest_known)
    for days in range(1, 5):
        loaded.predict(loaded.newest_known - timedelta(days=days))
    assert loaded.newest_known in loaded.cache
    assert len(loaded.cache) == 3


def test_a_release_that_was_altered_is_not_served(releases, tmp_path):
    shutil.copytree(releases / "first", tmp_path / "altered")
    path = tmp_path / "altered" / "ensemble.json"
    path.write_text(path.read_text().replace("0.02", "0.03"))
    with serving(tmp_path / "home", TIDEMILL_RELEASE=str(tmp_path / "altered")) as running:
        ready = running.client.get("/api/v1/health/ready")
        assert ready.status_code == 503
        assert "ensemble.json" in ready.text
        assert running.predict(series_id="north").status_code == 503
