"""What the supervisor starts is asked at each start: the champion's own Bento, of the dataset
that is current then."""

import os
import shutil
import time

import pytest
from disks import small_disk
from homes import at_home
from servers import DATASET, crown, digest_of
from small_release import build_small_release

from deployments.ops.supervisor import SupervisedPart, _PartKeeper, list_parts
from deployments.ops.supervisor_state import read_state
from tasks.edges.processes import fetch_url, find_free_port, stop_process, wait_for
from tasks.edges.settings import ROOT
from tasks.package.bento import build_bento

N_PROMOTIONS = 4  # two more than are kept


@pytest.fixture(scope="module")
def with_bentos(tmp_path_factory):
    """Releases that differ by a weight, each with a Bento; the code in it is the same, so that
    one build is enough."""
    folders = [tmp_path_factory.mktemp("releases") / str(k) for k in range(N_PROMOTIONS + 2)]
    for k, folder in enumerate(folders):
        build_small_release(
            folder, weights={"last_value": 0.1 + k / 10, "ridge": 0.9 - k / 10}, dataset=DATASET
        )
        if k == 0:
            build_bento(folder, ROOT, folder / "bento")
        else:
            shutil.copytree(folders[0] / "bento", folder / "bento")
    return folders


@pytest.fixture
def home(tmp_path):
    port = str(find_free_port("127.0.0.1"))
    with at_home(
        tmp_path, TIDEMILL_KEEP_RELEASES="2", TIDEMILL_SERVICE_PORT=port, TIDEMILL_HOST="127.0.0.1"
    ) as home:
        yield home


@pytest.fixture
def keeper(home):
    keeper = _PartKeeper([part for part in list_parts() if part.name == "service"])
    yield keeper
    keeper.close()
    for child in keeper.running.values():
        child.wait(30)


def run_until(keeper, holds):
    """The supervisor's own loop until *holds*."""
    deadline = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < deadline, keeper.running
        keeper.run_round()
        time.sleep(0.2)


def is_served(keeper, folder):
    said = fetch_url(f"{keeper.wanted[0].address}/api/v1/health/ready")
    return said is not None and digest_of(folder).encode() in said


def test_after_more_promotions_than_are_kept_it_starts_again_as_the_champion(home, keeper, with_bentos):
    first, *others, last = with_bentos
    crown(home, first)
    run_until(keeper, lambda: is_served(keeper, first))
    for folder in others:
        crown(home, folder)
    run_until(keeper, lambda: is_served(keeper, others[-1]))
    releases = home / "releases"
    assert {path.name for path in releases.iterdir()} == {
        digest_of(folder) for folder in (first, *others[-2:])
    }, "one runs, two are kept"

    stop_process(keeper.identities["service"])
    run_until(keeper, lambda: keeper.n_starts["service"] == 2 and is_served(keeper, others[-1]))
    assert digest_of(others[-1]) in " ".join(read_state().commands["service"])
    crown(home, last)
    assert {path.name for path in releases.iterdir()} == {
        digest_of(folder) for folder in (others[-1], last)
    }, "the first runs no more"


def test_a_champion_that_cannot_be_read_delays_its_start_and_nothing_else(home, keeper, with_bentos):
    crown(home, with_bentos[0])
    record = home / "registry" / DATASET / "champion.json"
    content = record.read_bytes()
    record.write_text("{}")
    keeper.run_round()
    assert keeper.running == {}
    record.write_bytes(content)
    assert wait_for(lambda: keeper.run_round() or "service" in keeper.running, 30)
    assert digest_of(with_bentos[0]) in " ".join(read_state().commands["service"])


def test_a_full_disk_ends_nothing_and_the_state_is_written_when_there_is_room(tmp_path):
    with small_disk(tmp_path / "home") as disk, at_home(disk.folder):
        keeper = _PartKeeper([SupervisedPart("sleeper", lambda: ["sleep", "600"], {}, "", lambda: True)])
        disk.fill(os.getpid())
        keeper.run_round()
        child = keeper.running["sleeper"]
        assert child.poll() is None
        assert read_state().parts == ()
        disk.free(os.getpid())
        keeper.run_round()
        assert [part.name for part in read_state().parts] == ["sleeper"]
        keeper.close()
        child.wait(30)
        for handler in list(keeper.log.handlers):
            keeper.log.removeHandler(handler)
            handler.close()


def test_the_probe_follows_the_registry(home, keeper, with_bentos):
    """Without a champion the service is asked whether it lives, with one whether it is ready."""
    run_until(keeper, keeper.wanted[0].ready)
    assert fetch_url(f"{keeper.wanted[0].address}/api/v1/health/ready") is None
    crown(home, with_bentos[0])
    run_until(keeper, keeper.wanted[0].ready)
    assert is_served(keeper, with_bentos[0])
