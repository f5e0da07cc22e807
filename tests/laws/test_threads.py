"""What a stage decides or writes has the same bytes with any number of threads of polars."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def digests_with(threads):
    run = subprocess.run(
        [sys.executable, ROOT / "tests/support/thread_sums.py"],
        cwd=ROOT,
        env={**os.environ, "POLARS_MAX_THREADS": str(threads), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def alone():
    return digests_with(1)


@pytest.mark.parametrize("threads", [2, 4])
def test_no_number_depends_on_the_number_of_threads(alone, threads):
    found = digests_with(threads)
    assert [name for name in alone if found[name] != alone[name]] == []
    assert found.keys() == alone.keys()
