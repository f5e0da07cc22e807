"""Fits of tests are kept in a home of their own."""

import pytest
from homes import at_home


@pytest.fixture(autouse=True)
def home(tmp_path):
    with at_home(tmp_path / "home") as folder:
        yield folder
