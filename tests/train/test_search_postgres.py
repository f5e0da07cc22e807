"""A study in a real PostgreSQL: workers and machines share it, and a kill of one of them loses
no trial and repeats none."""

import gc
import signal
import threading
import warnings

import psycopg
import pytest
from homes import at_home
from postgres import postgres
from searched import FEW, N_TRIALS, begin, judged_and_cut_off, stand_still, train_small

from tasks.core.errors import SettingsError
from tasks.edges.workers import fanout
from tasks.train.search import study as study_module


@pytest.fixture(scope="module")
def server():
    with postgres() as running:
        yield running
    # The storages of the searches are kept, with connections to a server that is gone now
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        study_module._open_storage.cache_clear()
        gc.collect()


@pytest.fixture
def calm(tmp_path):
    """What the same search finds in a journal file, undisturbed."""
    with at_home(tmp_path / "calm"):
        return train_small(search=FEW).search


def _wait_for_lock(url):
    """Until somebody waits for a lock of the database, at most 20 s."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for _ in range(400):
            if connection.execute(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ).fetchone():
                return
            connection.execute("SELECT pg_sleep(.05)")
    pytest.fail("the second search did not wait for the first")


def test_a_second_machine_waits_and_goes_on_where_the_first_was_killed(server, calm, tmp_path):
    """Each has a home of its own, so that only the database holds them apart.

    3 fits judge the parameters before the search, 3 each trial.
    """
    first = begin(tmp_path / "first", 3 + 4 * 3 + 2, stand_still, TIDEMILL_SEARCH_STORAGE=server.url)
    assert first.stdout.readline() == "standing still\n"
    found = []
    with at_home(tmp_path / "second", TIDEMILL_SEARCH_STORAGE=server.url):
        second = threading.Thread(target=lambda: found.extend(train_small(search=FEW).search))
        second.start()
        _wait_for_lock(server.url)
        assert not found
        first.send_signal(signal.SIGKILL)
        first.communicate()
        second.join()
        judged, (cut_off,) = judged_and_cut_off()
    assert found == calm
    assert len(judged) == len(set(judged)) == N_TRIALS
    assert cut_off.params["penalty"] in judged


def test_of_two_workers_one_is_killed_and_the_next_run_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fanout, "START_S", -1e6)  # as if processes cost nothing to start
    monkeypatch.setenv("MORTAL_MARK", str(tmp_path / "mark"))
    search = {**FEW, "workers": 2, "inner_refits": 1}
    with at_home(tmp_path / "home", TIDEMILL_SEARCH_STORAGE=server.url, TIDEMILL_WORKERS="2"):
        with pytest.raises(SettingsError, match="killed"):
            train_small("mortal:Mortal", search=search)
        found = train_small("mortal:Mortal", search={**search, "workers": 1}).search[0]
        judged, cut_off = judged_and_cut_off()
    assert cut_off
    assert found["n_trials"] == len(judged) == len(set(judged)) == N_TRIALS
    assert {t.params["penalty"] for t in cut_off if "whole" in t.user_attrs} <= set(judged)


def test_a_server_that_goes_away_is_said_and_the_search_goes_on_when_it_is_back(server, tmp_path):
    search, told = {**FEW, "inner_cutoffs": 5}, []

    def tell(_key, _began, trial):
        told.append(trial)
        if len(told) == 1 + 4:  # the first says that the search begins
            server.stop()

    with at_home(tmp_path, TIDEMILL_SEARCH_STORAGE=server.url):
        with pytest.raises(SettingsError, match="TIDEMILL_SEARCH_STORAGE does not answer"):
            train_small(search=search, tell=tell)
        with pytest.raises(SettingsError, match="TIDEMILL_SEARCH_STORAGE does not answer"):
            train_small(search=search)
        server.start()
        found = train_small(search=search).search[0]
        judged, _ = judged_and_cut_off()
    assert [t["params"] for t in found["trials"][:4]] == [t.params for t in told[1:]]
    assert len(judged) == len(set(judged)) == N_TRIALS
