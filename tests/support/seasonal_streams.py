"""Stationary hourly streams with a season, for detectors of drift."""

import numpy as np

from tasks.edges.column_file import ColumnFile
from tasks.monitor.drift import (
    compute_figures,
    fit_detector,
    fit_joint_detector,
    run_detectors,
    standardize_streams,
)

WEEK = 168


def build_streams(seed, n_days, n_streams=40, day=1.0, week=0.5):
    """(hours, streams): daily and weekly sine, AR(1) with .9 and sd 1."""
    rng, hours = np.random.default_rng(seed), n_days * 24
    noise = np.empty((hours, n_streams))
    noise[0] = rng.normal(size=n_streams)
    shocks = rng.normal(0, np.sqrt(1 - 0.9**2), (hours, n_streams))
    for t in range(1, hours):
        noise[t] = 0.9 * noise[t - 1] + shocks[t]
    clock = np.arange(hours)[:, None]
    return noise + day * np.sin(2 * np.pi * clock / 24) + week * np.sin(2 * np.pi * clock / WEEK)


def measure_alarms(detect, seed, reference_days, season_steps, shift_at, n_days=305, **parts):
    """(false alarms per stream and 30 days, delays in days).

    detect: reference, current, season_steps -> first alarmed row of each stream, -1 for none.
    The shift is one standard deviation of the stream, its season included, *shift_at* days after
    the reference; delays are those of streams that were silent until then, inf where it is missed.
    """
    streams = build_streams(seed, reference_days + n_days, **parts)
    start = reference_days * 24
    first = detect(streams[:start], streams[start:], season_steps)
    shifted = streams.copy()
    shifted[start + shift_at * 24 :] += streams.std()
    found = detect(shifted[:start], shifted[start:], season_steps)
    silent = found[(found < 0) | (found >= shift_at * 24)]
    delays = np.where(silent < 0, np.inf, (silent + 1) / 24 - shift_at)
    return float(np.mean(first >= 0)) / n_days * 30, delays


def compute_alarms(detector, current, first_row, codes=None):
    """The CUSUMs of *detector* over *current* (T, N), whose first row is grid step *first_row*."""
    figures = compute_figures(detector, current, first_row, codes)
    return run_detectors(figures, detector.scaled, detector.limit, detector.slack)


def compute_joint_alarms(values, n_reference, season_steps, day_steps, budget):
    """The CUSUM of all *values* (T, N) together, of which *n_reference* rows are the reference."""
    detector = fit_detector(values[:n_reference], season_steps, day_steps, 0.5, budget)
    with ColumnFile(len(values)) as innovations:
        innovations.append(standardize_streams(detector, values, n_reference, season_steps, day_steps))
        joint, figures = fit_joint_detector(detector, innovations, n_reference)
    return run_detectors(figures, joint.scaled, joint.limit, joint.slack)
