"""Where a test's landing keeps its table, and a test's producer its ledger."""

import pytest


@pytest.fixture
def table(tmp_path):
    return tmp_path / "table"


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger"
