"""The chain's measures, printed beside what they should reach; nothing is asserted.

Run by `make bench`; takes about ten minutes on 2 cores.
"""

import json
import re
import subprocess
import time

import pytest
import yaml
from small_checkout import ROOT, small_checkout

pytestmark = pytest.mark.bench


def _say(what, reach, seen):
    print(f"{what:<62} reach {reach:<28} seen {seen}")


def test_the_whole_chain(tmp_path):
    mill = small_checkout(tmp_path, whole=True)
    started = time.monotonic()
    mill.tidemill("run", "--json")
    _say("chain in `tidemill run` after the install", "<= 150 s", f"{time.monotonic() - started:.0f} s")
    _scores(json.loads((mill.root / "data/reports/ensemble/summary.json").read_text()))
    mill.repro()
    seconds, ran = _repro(mill)
    _say(
        "`dvc repro` with nothing changed",
        "<= 10 s, promote and later only",
        f"{seconds:.1f} s, ran {', '.join(ran)}",
    )
    path = mill.root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    document["datasets"][document["dataset"]]["models"]["har"]["windows_steps"] = [1, 22]
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    seconds, ran = _repro(mill)
    _say(
        "one model's parameter changed",
        "that model and what follows",
        f"{seconds:.1f} s, ran {', '.join(ran)}",
    )


def _repro(mill):
    started = time.monotonic()
    done = mill.repro()
    return time.monotonic() - started, re.findall(r"Running stage '([^']+)'", done.stdout)


def _scores(summary):
    ensemble, mean = (summary["scores"][name]["by_series"] for name in ("ensemble", "window_mean"))
    _say("cutoffs scored out of sample, a series", ">= 400", summary["n_cutoffs_scored"])
    for series_id, loss in ensemble.items():
        _say(
            f"QLIKE of the ensemble against the 22-day mean, {series_id}",
            "<= -12 %",
            f"{100 * (loss / mean[series_id] - 1):+.1f} %",
        )
    har = summary["comparisons"]["har"]
    _say(
        "QLIKE of the ensemble against HAR",
        "not worse by > 1 %",
        f"{-100 * har['gain_frac']:+.1f} %, p = {har['p']:.2g}",
    )
    coverage = summary["coverage"]
    _say("80 % interval, overall", "76-84 %", f"{coverage['overall']:.1%}")
    _say("by step", "76-84 %", ", ".join(f"{share:.1%}" for share in coverage["by_step"]))
    _say(
        "by year", "70-90 %", ", ".join(f"{year} {share:.1%}" for year, share in coverage["by_year"].items())
    )


def test_clone_to_forecast(tmp_path):
    """What a newcomer types, in a clone with an environment of its own."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    started = time.monotonic()
    subprocess.run(["make", "run"], cwd=tmp_path / "clone", check=True, capture_output=True)
    _say("clone to forecast, `make run`", "<= 300 s", f"{time.monotonic() - started:.0f} s")
