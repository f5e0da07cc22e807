"""NAB's scoring (Numenta, standard profile), and its windowed Gaussian detector.

Of a window the earliest detection counts, by a sigmoid of its place; each detection outside costs.
The first 15 % of a file, at most 750 rows, are for learning. One threshold holds for all files; the
best one is taken, as NAB's optimizer does. 0 is a detector that finds nothing, 100 a perfect one.
"""

import json

import numpy as np
import polars as pl
from scipy.stats import norm

FALSE_POSITIVE = 0.11
_BEST = 2 / (1 + np.exp(-5.0)) - 1


def read_files(folder):
    """name -> (times, values, windows as (first, last) rows)."""
    windows = json.loads((folder / "labels/combined_windows.json").read_text())
    found = {}
    for path in sorted((folder / "data").rglob("*.csv")):
        name = f"{path.parent.name}/{path.name}"
        rows = pl.read_csv(path)
        times = rows["timestamp"].str.to_datetime()
        limits = [
            [times.search_sorted(pl.Series([t]).str.to_datetime())[0] for t in w] for w in windows[name]
        ]
        found[name] = times, rows["value"].to_numpy().astype(float), [(int(a), int(b)) for a, b in limits]
    return found


def count_probation(n_rows):
    return int(min(0.15 * n_rows, 750))


def compute_score(scores, files):
    """0 to 100 by the best threshold for all files."""
    rows, n_windows = [], 0
    for name, (_, values, windows) in files.items():
        weight, window = np.full(len(values), -FALSE_POSITIVE), np.full(len(values), -1)
        previous = None
        for first, last in windows:
            if previous is not None:
                weight[previous[1] + 1 : first] = _weigh_past(previous, np.arange(previous[1] + 1, first))
            place = -(last - np.arange(first, last + 1) + 1) / (last - first + 1)
            weight[first : last + 1] = (2 / (1 + np.exp(5 * place)) - 1) / _BEST
            window[first : last + 1] = n_windows
            n_windows, previous = n_windows + 1, (first, last)
        if previous is not None:
            weight[previous[1] + 1 :] = _weigh_past(previous, np.arange(previous[1] + 1, len(values)))
        kept = slice(count_probation(len(values)), None)
        rows.append(np.column_stack([scores[name][kept], weight[kept], window[kept]]))
    table = np.concatenate(rows)
    table = table[np.argsort(-table[:, 0], kind="stable")]
    best, found, false = np.full(n_windows, -1.0), 0.0, 0.0
    reached = found = -float(n_windows)
    for i, (score, weight, window) in enumerate(table):
        if score <= 0:
            break
        if window < 0:
            false += weight
        else:
            gain = max(best[int(window)], weight) - best[int(window)]
            best[int(window)] += gain
            found += gain
        if i + 1 == len(table) or table[i + 1, 0] != score:
            reached = max(reached, found + false)
    return 100 * (reached + n_windows) / (2 * n_windows)


def _weigh_past(window, rows):
    place = np.abs(window[1] - rows) / max(1.0, window[1] - window[0])
    return np.where(place >= 3, -1.0, 2 / (1 + np.exp(5 * np.minimum(place, 3))) - 1) * FALSE_POSITIVE


def score_by_windowed_gaussian(values, size=6400, step=100):
    """NAB's baseline: the tail probability of a value by the window before it."""
    scores, window, waiting = np.zeros(len(values)), [], []
    mean, sd = 0.0, 1.0
    for i, value in enumerate(values):
        if window:
            scores[i] = 1 - norm.sf(abs(value - mean) / sd)
        if len(window) < size:
            window.append(value)
        else:
            waiting.append(value)
            if len(waiting) < step:
                continue
            window, waiting = window[step:] + waiting, []
        mean, sd = float(np.mean(window)), float(np.std(window)) or 1e-6
    return scores
