"""A home, a checkout's params.yaml, and the store, with a clock that the test sets."""

from datetime import UTC, datetime, timedelta

import pytest
from homes import at_home
from refresh_runs import build_root

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self):
        self.now = START

    def after(self, **passed):
        self.now += timedelta(**passed)
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def root(tmp_path):
    with at_home(tmp_path / "home"):
        (tmp_path / "home").mkdir()
        yield build_root(tmp_path / "root")
