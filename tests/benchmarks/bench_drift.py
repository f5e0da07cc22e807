"""The drift detectors: false alarms and delays on 40 seasonal streams, NAB, SEA, and their time.

Prints figures next to those of the peers; tests/monitor/test_drift.py holds the law.
"""

import json
import subprocess
import time
import warnings
from datetime import timedelta

import numpy as np
import pytest
from nab import compute_score, count_probation, read_files, score_by_windowed_gaussian
from seasonal_streams import WEEK, build_streams, compute_alarms, compute_joint_alarms, measure_alarms

from tasks.core.sketch import build_sketch, compare_values
from tasks.edges.settings import ROOT
from tasks.monitor.budget import advance
from tasks.monitor.drift import compute_figures, fit_detector
from tasks.monitor.signals import LEVEL

pytestmark = pytest.mark.bench
SEEDS, BUDGET, SHIFT_AT = range(29, 37), 0.05, 150
NEVER = np.iinfo(int).max
PEERS = ROOT / ".venv-peers/drift/bin/python"


def detect(reference, current, season_steps):
    """Ours."""
    detector = fit_detector(reference, season_steps, 24, 0.5, BUDGET / 720)
    first = compute_alarms(detector, current, len(reference)).first
    first = np.where(first < 0, NEVER, first).min(axis=0)
    return np.where(first == NEVER, -1, (first + 1) * detector.block_steps - 1)


def detect_by_level(reference, current, season_steps):
    """Ours, the level alone: what the other detectors of a stream cost."""
    detector = fit_detector(reference, season_steps, 24, 0.5, BUDGET / 720)
    first = compute_alarms(detector, current, len(reference)).first[LEVEL]
    return np.where(first < 0, -1, (first + 1) * detector.block_steps - 1)


def detect_by_fixed_limit(reference, current, season_steps):
    """The detector of before: one limit of 8 for all streams, and a block as long as the season."""
    phases = np.arange(len(reference) + len(current)) % season_steps
    season = np.stack([reference[phases[: len(reference)] == p].mean(axis=0) for p in range(season_steps)])
    past = reference - season[phases[: len(reference)]]
    later = current - season[phases[len(reference) :]]
    phi = (past[1:] * past[:-1]).sum(axis=0) / np.square(past[:-1]).sum(axis=0)
    means = [_average(v[1:] - phi * v[:-1], season_steps) for v in (past, later)]
    if len(means[0]) < 20:
        return np.full(current.shape[1], -1)
    z = np.clip((means[1] - means[0].mean(axis=0)) / means[0].std(axis=0), -3, 3)
    up, down, first = (np.zeros(z.shape[1]), np.zeros(z.shape[1]), np.full(z.shape[1], -1))
    for block, value in enumerate(z):
        up, down = np.maximum(0, up + value - 0.5), np.maximum(0, down - value - 0.5)
        first = np.where((first < 0) & (np.maximum(up, down) > 8), block, first)
    return np.where(first < 0, -1, (first + 1) * season_steps - 1)


def _average(values, n):
    return values[: len(values) // n * n].reshape(-1, n, values.shape[1]).mean(axis=1)


def find_joint_alarm(values, reference_days):
    """Ours: the day of the first alarm of the reconstruction error."""
    start = reference_days * 24
    first = compute_joint_alarms(values, start, 24, 24, BUDGET / 720).first[LEVEL, 0]
    return None if first < 0 else int(first) + 1


def find_classifier_alarm(values, reference_days):
    """A domain classifier each week: boosted trees separate it from the reference better than any
    week of the reference from the others.

    It sees 2,000 rows of the reference at most, and the values with their products by pairs, which
    trees do not find by themselves in a few rounds.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    i, j = np.triu_indices(values.shape[1], 1)
    values = np.column_stack([values, values[:, i] * values[:, j]]).astype(np.float32)

    def score(past, week):
        """Area under the curve, the half of the rows by a fit on the other half."""
        x, label = np.concatenate([past, week]), np.repeat([0, 1], [len(past), len(week)])
        is_odd, found = np.arange(len(x)) % 2 == 1, np.empty(len(x))
        for fold in (is_odd, ~is_odd):
            model = HistGradientBoostingClassifier(max_iter=10, max_bins=32, random_state=0)
            found[fold] = model.fit(x[~fold], label[~fold]).predict_proba(x[fold])[:, 1]
        ranks = np.argsort(np.argsort(found))[label == 1] + 1
        return (ranks.sum() - len(week) * (len(week) + 1) / 2) / (len(week) * len(past))

    start = reference_days * 24
    past, weeks = values[:start], range(start, len(values) - WEEK + 1, WEEK)
    rows = np.random.default_rng(1).choice(start, min(start, 2000), replace=False)
    own = [
        score(past[rows[(rows < i) | (rows >= i + WEEK)]], past[i : i + WEEK])
        for i in range(0, start - WEEK + 1, WEEK)
    ]
    limit = np.mean(own) + 3 * np.std(own)
    for first in weeks:
        if score(past[rows], values[first : first + WEEK]) > limit:
            return (first + WEEK - start) // 24
    return None


def _measure(run):
    seconds = []
    for _ in range(3):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return sorted(seconds)[1]


def _run_evidently(reference, current):
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies warn on import
        from evidently import Dataset, Report
        from evidently.presets import DataDriftPreset

    parts = (pd.DataFrame(v, columns=[f"c{i}" for i in range(v.shape[1])]) for v in (current, reference))
    Report([DataDriftPreset()]).run(*(Dataset.from_pandas(part) for part in parts))


def _run_peer(name, path):
    command = [PEERS, ROOT / "tests/benchmarks/peers/drift.py", name, path]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def _score_by_cusum(times, values):
    """A row's score is the largest sum over its limit; an alarm again counts after a quiet day."""
    n, step = count_probation(len(values)), times.diff().median()
    day = max(1, round(timedelta(days=1) / step))
    detector = fit_detector(values[:n, None], day, day, 0.5, BUDGET / 30 / day, block_steps=1)
    figures = compute_figures(detector, values[n:, None], n)
    z = np.nan_to_num((figures - detector.scaled.mean) / detector.scaled.sd)
    limit = np.where(np.isfinite(detector.limit), detector.limit, np.inf)
    sums, newest, scores = np.zeros((2, *limit.shape)), -np.inf, np.zeros(len(values))
    for row, block in enumerate(z):
        raised, sums, _ = advance(sums, np.zeros(sums.shape, dtype=bool), block, 0.5, limit)
        if (size := (raised / limit).max()) > 1:
            scores[n + row] = size if row - newest > day else 0.0
            newest = row
    return scores


def _watch_errors(x, y, block_steps=50, alarms_per_step=1e-5):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    start, end, alarms, errors = 0, 2000, [], []
    while end < len(y):
        model = LogisticRegression()
        past = cross_val_predict(model, x[start:end], y[start:end], cv=10) != y[start:end]
        wrong = (model.fit(x[start:end], y[start:end]).predict(x[end:]) != y[end:]).astype(float)
        detector = fit_detector(
            past.astype(float)[:, None], 1, 1, 0.5, alarms_per_step, block_steps=block_steps
        )
        first = compute_alarms(detector, wrong[:, None], end).first
        if not (first >= 0).any():
            errors.append(wrong)
            break
        start = end + int(first[first >= 0].min() + 1) * detector.block_steps
        alarms.append(start)
        errors.append(wrong[: min(len(y), start + 1000) - end])
        end = min(len(y), start + 1000)
    return alarms, np.concatenate(errors).mean()


@pytest.mark.parametrize("detector", [detect, detect_by_level, detect_by_fixed_limit])
@pytest.mark.parametrize(
    ("reference_days", "season_steps"), [(60, 24), (60, WEEK), (30, WEEK), (21, WEEK), (365, WEEK)]
)
def test_false_alarms_and_delay(detector, reference_days, season_steps):
    found = [measure_alarms(detector, seed, reference_days, season_steps, SHIFT_AT) for seed in SEEDS]
    delays = np.concatenate([delays for _, delays in found])
    print(
        f"\n{detector.__name__}: {reference_days} days of reference, season {season_steps}:"
        f" {np.mean([rate for rate, _ in found]):.4f} false alarms per stream and 30 days, delay median"
        f" {np.median(delays):.1f} d, p90 {np.quantile(delays, 0.9, method='lower'):.1f} d,"
        f" {np.isinf(delays).mean():.1%} missed"
    )


def test_time_of_100000_rows_and_40_columns(tmp_path):
    """Processor seconds, medians of three: figures against a saved reference, and all detectors."""
    streams = build_streams(1, 8340)
    reference, current = streams[:100_000], streams[100_000:200_000]
    phases = np.arange(100_000) % WEEK
    sketches = [build_sketch(column, phases) for column in reference.T]
    detector = fit_detector(reference, 24, 24, 0.5, BUDGET / 720)
    np.savez(tmp_path / "rows.npz", reference=reference, current=current)
    times = {
        "PSI, Jensen-Shannon, Wasserstein": _measure(
            lambda: [compare_values(s, c, phases) for s, c in zip(sketches, current.T, strict=True)]
        ),
        "CUSUM of five detectors and all together": _measure(
            lambda: compute_alarms(detector, current, len(reference))
        ),
        "the fit of these": _measure(lambda: fit_detector(reference, 24, 24, 0.5, BUDGET / 720)),
        "Evidently's preset": _measure(lambda: _run_evidently(reference, current)),
        "NannyML, Jensen-Shannon": _run_peer("nannyml", tmp_path / "rows.npz")["cpu_s"][1],
    }
    print("".join(f"\n{name}: {seconds:.2f} s" for name, seconds in times.items()))


def test_nab(shared_data):
    files = read_files(shared_data / "nab")
    ours = {name: _score_by_cusum(times, values) for name, (times, values, _) in files.items()}
    print(f"\nNAB, standard profile, {len(files)} files: ours {compute_score(ours, files):.1f}")
    for size, step in ((6400, 100), (1000, 1)):
        scores = {n: score_by_windowed_gaussian(values, size, step) for n, (_, values, _) in files.items()}
        print(f"windowed Gaussian of {size} rows, moved by {step}: {compute_score(scores, files):.1f}")


def test_sea(shared_data, tmp_path):
    """Errors of a logistic regression; after an alarm 1,000 more rows, then it is trained again."""
    folder = shared_data / "streams"
    x, y = np.loadtxt(folder / "sea_X.csv", delimiter=","), np.loadtxt(folder / "sea_y.csv").astype(int)
    np.savez(tmp_path / "sea.npz", X=x, y=y)
    alarms, error = _watch_errors(x, y)
    print(f"\nSEA, drifts at 12,500, 25,000, 37,500: ours alarms at {alarms}, error {error:.4f}")
    peer = _run_peer("adwin", tmp_path / "sea.npz")
    print(f"ADWIN alarms at {peer['alarms']}, error {peer['error']:.4f}")


@pytest.mark.parametrize("rho", [0.8, 0.5])
@pytest.mark.parametrize("detector", [find_joint_alarm, find_classifier_alarm])
def test_a_relation_that_ends(detector, rho):
    """Ten hourly streams, of which two are alike until day 100; each alone stays as it is."""
    started, false, delays = time.process_time(), 0, []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(60 * 24 + 160 * 24, 10))
        end = (60 + 100) * 24
        values[:end, 1] = rho * values[:end, 0] + np.sqrt(1 - rho**2) * values[:end, 1]
        day = detector(values, 60)
        false += day is not None and day < 100
        delays.append(np.inf if day is None or day < 100 else day - 100)
    print(
        f"\n{detector.__name__}, correlation {rho} until day 100: {false} of 12 false in 100 days, delay of"
        f" each {[float(d) for d in delays]} d, {time.process_time() - started:.1f} s"
    )
