"""Where the trials of a search are kept: a kill costs nothing, and what is old goes."""

import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from homes import at_home
from searched import FEW, N_TRIALS, WALK, judged_and_cut_off, kill_in_fit, train_small

from tasks.core.errors import SettingsError
from tasks.train.search import trial as trial_module
from tasks.train.search.params import SearchParams
from tasks.train.search.study import (
    delete_old_studies,
    get_study_folder,
    list_finished,
    open_locked_study,
    open_study,
    register_drawn,
    start_trial,
)


def test_a_search_killed_twice_loses_no_trial_repeats_none_and_answers_as_if_nothing_had_been(tmp_path):
    """3 fits judge the parameters before the search, 3 each trial: the first kill hits the
    fourth trial, the second one the seventh."""
    with at_home(tmp_path / "calm"):
        calm = train_small(search=FEW)
    with at_home(tmp_path / "killed") as home:
        for fit in (3 + 3 * 3 + 2, 3 * 3 + 2):
            kill_in_fit(home, fit)
        told = []
        after = train_small(search=FEW, tell=lambda _key, _began, trial: told.append(trial))
        judged, cut_off = judged_and_cut_off()
    assert after.search == calm.search
    assert after.forecasts.equals(calm.forecasts)
    assert len(judged) == len(set(judged)) == N_TRIALS
    assert len(cut_off) == 2
    assert {t.params["penalty"] for t in cut_off} <= set(judged)
    # Also those that were told before, since a kill may come before the telling
    assert [t.number for t in told[1:]] == list(range(1, N_TRIALS + 1))


def test_several_workers_share_a_study_and_a_kill_costs_them_nothing_either(tmp_path):
    with at_home(tmp_path, TIDEMILL_WORKERS="2") as home:
        kill_in_fit(home, 3 + 4 * 3 + 1, workers=2)
        found = train_small(search={**FEW, "workers": 2}).search[0]
        judged, cut_off = judged_and_cut_off()
    assert found["n_trials"] == len(judged) == len(set(judged)) == N_TRIALS
    assert cut_off
    assert {t.params["penalty"] for t in cut_off if "drawn" in t.user_attrs} <= set(judged)


def test_trials_killed_before_and_after_they_were_drawn_share_no_seed_with_later_ones(home):
    search = SearchParams.model_validate(FEW)
    axis = search.space["penalty"]

    def draw(study, n):
        started = (start_trial(study, search, WALK.seed) for _ in range(n))
        return [(trial, axis.draw(trial, "penalty")) for trial in started]

    with open_locked_study("calm", search) as study:
        calm = [value for _, value in draw(study, 5)]
    with open_locked_study("killed", search) as study:
        start_trial(study, search, WALK.seed)  # killed before it is drawn
        ((second, _),) = draw(study, 1)
        register_drawn(second)
    with open_locked_study("killed", search) as study:
        start_trial(study, search, WALK.seed)  # its copy is killed too
    with open_locked_study("killed", search) as study:
        assert sorted(value for _, value in draw(study, 5)) == sorted(calm)


def test_half_a_line_and_a_lock_of_a_killed_search_do_no_harm(home):
    first = train_small(search=FEW).search
    (folder,) = (home / "search").iterdir()
    with (folder / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code":5,"worker')
    (folder / "journal.log.lock").symlink_to("journal.log")
    trial_module.open_study.__globals__["_open_storage"].cache_clear()
    began = time.monotonic()
    more = train_small(search={**FEW, "n_trials": N_TRIALS + 1}).search
    assert time.monotonic() - began < 20  # the lock would be waited for 30 s
    assert more[0]["trials"][:N_TRIALS] == first[0]["trials"]


def _weigh(key, used):
    """Make the folder of the study *key* one of 700 kB, used at second *used*."""
    folder = get_study_folder(key)
    (folder / "front.json").write_bytes(b" " * 700_000)
    os.utime(folder / "lock", (used, used))
    return folder


def test_studies_stay_within_their_bound_the_newest_used_stay_and_none_in_use_goes(tmp_path):
    search = SearchParams.model_validate(FEW)
    with at_home(tmp_path, TIDEMILL_KEEP_SEARCHES_MB="2"):
        for key in "abcd":
            with open_locked_study(key, search):
                pass
        folders = {key: _weigh(key, used) for used, key in enumerate("abcd")}
        with open_locked_study("a", search):
            os.utime(folders["a"] / "lock", (0, 0))
            delete_old_studies()
            assert [key for key, folder in folders.items() if folder.exists()] == ["a", "c", "d"]
        os.utime(folders["a"] / "lock", (0, 0))
        delete_old_studies()
        assert [key for key, folder in folders.items() if folder.exists()] == ["c", "d"]


def test_a_study_that_was_trimmed_begins_anew_also_in_a_process_that_remembers_it(tmp_path):
    with at_home(tmp_path, TIDEMILL_KEEP_SEARCHES_MB="0"):
        first = train_small(search=FEW).search
        assert list((tmp_path / "search").iterdir()) == []
        assert train_small(search=FEW).search == first


def test_who_waits_for_a_study_that_is_trimmed_meanwhile_holds_a_lock_that_others_see(home):
    search = SearchParams.model_validate(FEW)
    found, folder = [], get_study_folder("a")

    def wait():
        with open_locked_study("a", search):
            found.append((folder / "lock").exists())

    with (folder / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not any(
            str((folder / "lock").stat().st_ino) in line and "->" in line
            for line in Path("/proc/locks").read_text().splitlines()
        ):
            time.sleep(0.01)
        shutil.rmtree(folder)
    waiting.join()
    assert found == [True]


def test_a_database_by_url_keeps_the_trials_and_takes_up_what_was_killed(tmp_path):
    """SQLite, whose search is the journal's to the byte; PostgreSQL, with workers and machines,
    has a file of its own."""
    with at_home(tmp_path / "journal"):
        expected = train_small(search=FEW).search
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    search = SearchParams.model_validate(FEW)
    with at_home(tmp_path / "home", TIDEMILL_SEARCH_STORAGE=url) as home:
        train_small(search={**FEW, "n_trials": 3})
        (folder,) = (home / "search").iterdir()
        assert not (folder / "journal.log").exists()
        study = open_study(folder.name, search)
        trial = start_trial(study, search, WALK.seed)  # drawn and never told, as a kill leaves it
        search.space["penalty"].draw(trial, "penalty")
        register_drawn(trial)
        assert train_small(search=FEW).search == expected
        with open_locked_study(folder.name, search) as study:
            assert len(list_finished(study)) == N_TRIALS
            assert len(study.get_trials()) == N_TRIALS + 1


def test_a_trial_that_waits_to_be_done_again_outlives_a_kill_before_it_is_drawn(home):
    expected = train_small(search={**FEW, "n_trials": 4}).search[0]["trials"][3]["params"]["penalty"]
    (folder,) = (home / "search").iterdir()
    search, wanted = SearchParams.model_validate(FEW), 0.123
    with open_locked_study(folder.name, search) as study:
        study.enqueue_trial({"penalty": wanted})
        start_trial(study, search, WALK.seed)  # taken from the queue, and killed
    judged = [t["params"]["penalty"] for t in train_small(search={**FEW, "n_trials": 6}).search[0]["trials"]]
    assert judged.count(wanted) == 1
    assert judged[3] == expected
    assert len(judged) == 6


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////no/such/folder/trials.db",
        "postgresql+psycopg://nobody@/none?host=/no/such/folder",
        "postgresql://driver@not/locked",
        "mysql://driver@not/locked",
    ],
)
def test_a_database_that_is_not_there_is_said(url, tmp_path):
    with (
        at_home(tmp_path, TIDEMILL_SEARCH_STORAGE=url),
        pytest.raises(SettingsError, match="TIDEMILL_SEARCH_STORAGE"),
    ):
        train_small(search=FEW)
