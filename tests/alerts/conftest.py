"""A home, a checkout's params.yaml, and a clock that the test sets."""

import pytest
from alert_servers import Clock
from homes import at_home
from refresh_runs import build_root


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def root(tmp_path):
    with at_home(tmp_path / "home"):
        (tmp_path / "home").mkdir()
        yield build_root(tmp_path / "root")
