"""How often the gate is wrong and how often it is right, on losses drawn by hand.

`.venv/bin/pytest tests/benchmarks/bench_gate.py -m bench -s` prints the table of
docs/how-it-works/how-a-release-is-decided.md.
"""

import numpy as np
import pytest
from gate_runs import LOOKS, draw_losses, run_looks

pytestmark = pytest.mark.bench


def test_the_table_of_errors_and_power():
    n_pairs, gains = 2000, (0.0, 0.02, 0.05, 0.1, 0.2)
    print(f"\nshare of {n_pairs} pairs that pass, and after how many cutoffs (median)")
    print("| looks | rho | " + " | ".join("equal" if not g else f"{g:.0%} better" for g in gains) + " |")
    for name, looks in LOOKS.items():
        for rho in (0.0, 0.3, 0.5, 0.7):
            cells = []
            for gain in gains:
                at = run_looks(*draw_losses(n_pairs, rho, gain), looks)
                cells.append(f"{np.mean(at > 0):.1%}, {np.median(at[at > 0]):.0f}")
            print(f"| {name} | {rho:g} | " + " | ".join(cells) + " |")
