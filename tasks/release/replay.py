"""The calibration's state at any cutoff, replayed from what was issued and had become known.

Cutoffs on the stride move the state on; a cutoff that is only requested uses a copy of it, so that
a request changes nothing and a batch of cutoffs gives the numbers of one at a time. States along a
replay are kept with the release, so that the next one on the same past starts near its end.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tasks.core.kinds.base import CalibrationSpec
from tasks.core.kinds.timeline import NEVER, ReplayCursor, Timeline, hold_point
from tasks.release.combine import list_member_columns
from tasks.release.load import Release
from tasks.release.origins import find_series_positions

KEPT_EVERY = 32  # cutoffs between two states that are kept: 10 ms of replay with two series
KEPT_CURSORS = 64
# A state has 40 KB with two series and five steps, 40 MB with 400 series of a day's hours
KEPT_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class ReplayTimeline(Timeline):
    """Forecasts on the stride, the release's history first; all of them are learned from.

    cutoff: (K,) microseconds since 1970, ascending.
    known_us: (K, S, H) when z could first be known, NEVER where it was not.
    n_history: so many cutoffs come from the history.
    missing: (K, S, H) where the history has no z, but rows have it.
    regime: (K, S).
    member_z_hat: (K, S, H, M) the forecast of each member alone, where weights move.
    group: -1 for a series that the release has never seen: it uses all pools, and none learns from
      it.
    """

    series_ids: tuple[str, ...]
    cutoff: np.ndarray
    known_us: np.ndarray
    n_history: int
    missing: np.ndarray
    regime: np.ndarray
    member_z_hat: np.ndarray | None = None


def find_learning_cutoffs(
    times: np.ndarray, cutoff: np.ndarray, known_us: np.ndarray, missing: np.ndarray, n_history: int
) -> np.ndarray:
    """(K, S, H) index of the first of *times* (ascending) after the cutoff that knows the outcome.

    cutoff: (K,).
    missing: (K, S, H) where only rows have the outcome: it counts after the history's end, the
      first *n_history* times, since the state there must follow from the history alone.
    """
    later = np.searchsorted(times, cutoff, side="right")[:, None, None]
    out: np.ndarray = np.maximum(
        np.searchsorted(times, known_us), np.where(missing, np.maximum(later, n_history), later)
    )
    return out


class ReplayRequest(NamedTuple):
    """One requested cutoff.

    z_hat: (S, H), rows of NaN for series without a forecast.
    scale, group: (S,).
    base: (S, H, Q) for CQR.
    """

    as_of_us: int
    z_hat: np.ndarray
    scale: np.ndarray
    group: np.ndarray
    base: np.ndarray | None


def build_pool_groups(release: Release, series_ids: Sequence[str], regime: np.ndarray) -> np.ndarray:
    """(K, S) pool of each series at each cutoff, for its regime (K, S) there."""
    if release.ensemble.group == "regime":
        return regime
    # Without a history all series start together
    if release.ensemble.group == "all" or not release.series_ids:
        return np.zeros(regime.shape, dtype=np.int64)
    group_of = {name: i for i, name in enumerate(release.series_ids)}
    return np.broadcast_to(
        np.array([group_of.get(name, -1) for name in series_ids], dtype=np.int64), regime.shape
    )


def get_history_timeline(release: Release) -> ReplayTimeline:
    """The release's history as a timeline of its own series; computed once for a release."""
    if "history" not in release.cache:
        release.cache["history"] = _build_history_timeline(release)
    timeline: ReplayTimeline = release.cache["history"]
    return timeline


def _build_history_timeline(release: Release) -> ReplayTimeline:
    frame = release.history
    cutoffs = frame["cutoff"].unique().sort()
    where = (
        cutoffs.search_sorted(frame["cutoff"]).to_numpy(),
        np.searchsorted(np.asarray(release.series_ids, dtype=str), frame["series_id"].to_numpy().astype(str)),
        frame["step"].to_numpy() - 1,
    )
    shape = (len(cutoffs), len(release.series_ids), release.schema.horizon_steps)

    def dense(column: str) -> np.ndarray:
        out = np.full(shape, np.nan)
        out[where] = frame[column].fill_null(np.nan).to_numpy()
        return out

    scale = np.full(shape[:2], np.nan)
    scale[where[:2]] = frame["scale"].to_numpy()
    known = np.full(shape, NEVER)
    known[where] = frame["known_at"].to_physical().fill_null(NEVER).to_numpy()
    regime = np.zeros(shape[:2], dtype=np.int64)
    if release.ensemble.regime:
        regime[where[:2]] = frame["regime"].to_numpy()
    cutoff, z = cutoffs.to_physical().to_numpy(), dense("z")
    missing = np.zeros(shape, dtype=bool)
    further = release.kind.list_columns(release.about)[1:] if release.ensemble.quantile_members else ()
    base, member_z_hat = (
        np.stack([dense(name) for name in names], axis=-1) if names else None
        for names in (further, list_member_columns(release.combination))
    )
    return ReplayTimeline(
        dense("z_hat"),
        scale,
        z,
        find_learning_cutoffs(cutoff, cutoff, known, missing, 0),
        np.ones(len(cutoff), dtype=bool),
        build_pool_groups(release, release.series_ids, regime),
        release.kind,
        base,
        series_ids=release.series_ids,
        cutoff=cutoff,
        known_us=known,
        n_history=len(cutoff),
        missing=missing,
        regime=regime,
        member_z_hat=member_z_hat,
    )


def predict_requests(
    release: Release, timeline: ReplayTimeline, requests: Sequence[ReplayRequest]
) -> list[np.ndarray]:
    """For each request (S, H, C) in the space in which members are combined, NaN where unknown.

    requests: ascending in time.
    """
    times = [request.as_of_us for request in requests]
    stops = [int(n) for n in np.searchsorted(timeline.cutoff, times, side="right")]
    out = []
    cursor = _start_cursor(release, timeline, stops[0]) if stops else None
    for request, stop in zip(requests, stops, strict=True):
        assert cursor is not None
        _run_cursor(release, timeline, cursor, stop)
        out.append(_predict_request(release, timeline, cursor, request))
    return out


def _start_cursor(release: Release, timeline: ReplayTimeline, first: int) -> ReplayCursor:
    """A cursor that is as far as an earlier one on the same past, at most at *first*.

    At the beginning when there is none.
    """
    cursors: dict[int, tuple[ReplayTimeline, ReplayCursor]] = release.cache.get("cursors", {})
    for n_done in sorted((n for n in list(cursors) if n <= first), reverse=True):
        past, cursor = cursors[n_done]
        if _is_past_of(past, timeline, n_done):
            issued = np.full((*timeline.z_hat.shape, cursor.state.n_kept), np.nan)
            columns = find_series_positions(timeline.series_ids, past.series_ids)
            issued[:n_done, columns] = cursor.issued[:n_done]
            return ReplayCursor(deepcopy(cursor.state), issued, n_done)
    return _build_cursor(release, timeline)


def _is_past_of(past: ReplayTimeline, timeline: ReplayTimeline, n: int) -> bool:
    """Whether the first *n* cutoffs of both timelines issue and teach the same.

    Exact: a kept state never changes an answer.
    """
    if (
        len(past.cutoff) < n
        or not set(past.series_ids) <= set(timeline.series_ids)
        or not np.array_equal(past.cutoff[:n], timeline.cutoff[:n])
    ):
        return False
    shared = find_series_positions(timeline.series_ids, past.series_ids)
    further = np.setdiff1d(np.arange(len(timeline.series_ids)), shared)
    if np.isfinite(timeline.z_hat[:n, further]).any():
        return False
    due, before = (np.minimum(part.due[:n], n) for part in (timeline, past))
    learned = before < n
    return (
        np.array_equal(due[:, shared], before)
        and np.array_equal(
            np.isfinite(timeline.z_hat[:n, shared]).any(axis=2), np.isfinite(past.z_hat[:n]).any(axis=2)
        )
        and np.array_equal(timeline.lessons[:n, shared][learned], past.lessons[:n][learned])
        and np.array_equal(timeline.group[:n, shared], past.group[:n])
    )


def _save_cursor(release: Release, timeline: ReplayTimeline, cursor: ReplayCursor) -> None:
    cursors = release.cache.setdefault("cursors", {})
    cursors.pop(cursor.n_done, None)
    cursors[cursor.n_done] = (timeline, ReplayCursor(deepcopy(cursor.state), cursor.issued, cursor.n_done))
    while len(cursors) > max(2, min(KEPT_CURSORS, KEPT_BYTES // cursor.state.nbytes)):
        del cursors[next(iter(cursors))]


def _build_cursor(release: Release, timeline: ReplayTimeline) -> ReplayCursor:
    ensemble = release.ensemble
    n_groups = {"all": 1, "regime": len(ensemble.regime.above) + 1 if ensemble.regime else 1}.get(
        ensemble.group, max(1, len(release.series_ids))
    )
    spec = CalibrationSpec(
        ensemble.residuals, ensemble.adapt_rate, ensemble.block, bool(ensemble.quantile_members)
    )
    state = release.kind.build_calibrator(release.about, spec, n_groups, release.schema.horizon_steps)
    return ReplayCursor(state, np.full((*timeline.z_hat.shape, state.n_kept), np.nan))


def _run_cursor(release: Release, timeline: ReplayTimeline, cursor: ReplayCursor, stop: int) -> None:
    while cursor.n_done < stop:
        if cursor.n_done % KEPT_EVERY == 0 and cursor.n_done:
            _save_cursor(release, timeline, cursor)
        cursor.walk_forward(timeline, min(stop, (cursor.n_done // KEPT_EVERY + 1) * KEPT_EVERY))


def _predict_request(
    release: Release, timeline: ReplayTimeline, cursor: ReplayCursor, request: ReplayRequest
) -> np.ndarray:
    state, n_done = cursor.state, cursor.n_done
    # Between two cutoffs of the stride: what became known since the last one counts too
    if n_done and timeline.cutoff[n_done - 1] < request.as_of_us:
        since = np.flatnonzero(
            (timeline.due[:n_done] >= n_done)
            & (timeline.due[:n_done] != NEVER)
            & (timeline.known_us[:n_done] <= request.as_of_us)
        )
        if len(since):
            state = deepcopy(state)
            cursor.learn(timeline, since, state)
    columns = np.full((*request.z_hat.shape, len(release.kind.list_columns(release.about))), np.nan)
    is_known = np.isfinite(request.z_hat).any(axis=1)
    if is_known.any():
        z_hat, scale, group = request.z_hat[is_known], request.scale[is_known], request.group[is_known]
        base = None if request.base is None else request.base[is_known]
        columns[is_known, :, 0] = state.compute_points(group, z_hat, scale)
        columns[is_known, :, 1:] = state.compute_further(state.issue(group), z_hat, scale, base)
    return hold_point(columns, state)
