"""Seconds and memory for the features of 100 series x 10,000 steps x 45 columns, beside the
libraries of the findings: cold once, then warm, on 2 threads.

The sides take turns, each in a process of its own, so that all of them meet the machine's other
work alike.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

pytestmark = pytest.mark.bench
N_TURNS, N_ROUNDS = 3, 8
ROOT = Path(__file__).resolve().parents[2]
THREADS = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "2")
SIDES = {"tidemill": False, "mlforecast": True, "coreforecast": True, "polars .over": False}


def test_a_million_rows_by_45_columns(capsys):
    found = {side: [] for side in SIDES}
    for _ in range(N_TURNS):
        for side, peers in SIDES.items():
            found[side].append(
                _rounds(side, ROOT / ".venv-peers/bin/python" if peers else Path(sys.executable))
            )
    with capsys.disabled():
        print(
            f"\nfeatures of 1,000,000 rows x 45 columns, 2 threads; {N_TURNS} processes a side, {N_ROUNDS}"
            " rounds each"
        )
        for side, runs in found.items():
            cold, warm = (
                median(run["seconds"][0] for run in runs),
                [s for run in runs for s in run["seconds"][1:]],
            )
            cpu, peak = (
                median(s for run in runs for s in run["cpu_s"][1:]),
                median(run["peak_mb"] for run in runs),
            )
            print(
                f"  {side:13} cold {cold:.2f} s, warm median {median(warm):.3f} s (least {min(warm):.3f};"
                f" {cpu:.2f} s of processor), peak {peak:.0f} MB"
            )


def _rounds(side, python):
    command = [python, ROOT / "tests/benchmarks/peers/features.py", side, str(N_ROUNDS)]
    return json.loads(
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, **THREADS}, stdout=subprocess.PIPE, check=True
        ).stdout
    )
