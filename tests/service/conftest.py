"""Real servers with a small release behind them.

What tests import by name lies in servers.py: other folders have a conftest too.
"""

from contextlib import ExitStack

import pytest
from servers import DATASET, at, serving, working
from small_release import build_small_release, small_rows

from tasks.edges.jobs import open_jobs
from tasks.edges.processes import START_S, wait_for


@pytest.fixture
def at_home():
    """Point this process at a home until the test ends, so that it reads the store the server
    writes."""
    with ExitStack() as stack:
        yield lambda home: stack.enter_context(at(home))


@pytest.fixture(scope="session")
def releases(tmp_path_factory):
    """Two good releases; `second` differs by its weights. All rows, those after seen_until too."""
    folder = tmp_path_factory.mktemp("releases")
    build_small_release(folder / "first", dataset=DATASET)
    build_small_release(
        folder / "second", weights={"last_value": 0.5, "seasonal_naive": 0.5}, model="second", dataset=DATASET
    )
    return folder


@pytest.fixture(scope="session")
def all_rows():
    return small_rows()


@pytest.fixture(scope="session")
def server(releases, tmp_path_factory):
    """One server, with its job loop, for all tests that only ask."""
    home = tmp_path_factory.mktemp("home")
    with working(home), serving(home, TIDEMILL_RELEASE=str(releases / "first")) as running:
        with at(home), open_jobs() as store:
            assert wait_for(store.is_loop_alive, START_S)
        yield running
