"""The state of the quantiles at any cutoff, replayed: what was issued on the stride, and what of it
had become known.

Cutoffs on the stride move the state on; a cutoff that is only asked for looks at a copy of it, so
that asking changes nothing and a batch of cutoffs gives the numbers of one at a time. Where a walk
came past is kept beside the release, so that the next one on the same past starts near its end.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tasks.core.kinds.base import CalibrationSpec
from tasks.core.kinds.timeline import NEVER, ReplayCursor, Timeline
from tasks.release.combine import list_member_columns
from tasks.release.load import Release
from tasks.release.origins import find_series_positions

KEPT_EVERY = 32  # cutoffs between two standings that are kept: 10 ms of walking with two series
KEPT_WALKS = 64
# A standing has 40 KB with two series and five steps, 40 MB with 400 series of a day's hours
KEPT_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class ReplayTimeline(Timeline):
    """Forecasts on the stride, the release's history first; everything on it teaches.

    cutoff: (K,) microseconds since 1970, ascending. known_us: (K, S, H) when z could first be
    known, NEVER where it was not. n_history: so many cutoffs come from the history. lacked: (K, S,
    H) where the history lacks z, and rows have it. regime: (K, S). said: (K, S, H, M) what each
    member says alone, where weights move. group: -1 for a series that the release has never seen:
    it borrows from all pools and teaches none.
    """

    series_ids: tuple[str, ...]
    cutoff: np.ndarray
    known_us: np.ndarray
    n_history: int
    lacked: np.ndarray
    regime: np.ndarray
    said: np.ndarray | None = None


def find_learning_cutoffs(
    times: np.ndarray, cutoff: np.ndarray, known_us: np.ndarray, lacked: np.ndarray, n_history: int
) -> np.ndarray:
    """(K, S, H) index of the first of *times* (ascending) that knows what came true and lies after
    the cutoff (K,) itself.

    lacked: (K, S, H) what the history lacks and rows say: it counts after the history's end, the
    first *n_history* times, since the state there must follow from the history alone.
    """
    later = np.searchsorted(times, cutoff, side="right")[:, None, None]
    out: np.ndarray = np.maximum(
        np.searchsorted(times, known_us), np.where(lacked, np.maximum(later, n_history), later)
    )
    return out


class ReplayRequest(NamedTuple):
    """One cutoff that is asked for, *at_us*: z_hat (S, H), rows of NaN for series without a
    forecast, scale and group (S,), base (S, H, Q) for CQR.
    """

    at_us: int
    z_hat: np.ndarray
    scale: np.ndarray
    group: np.ndarray
    base: np.ndarray | None


def build_pool_groups(release: Release, series_ids: Sequence[str], regime: np.ndarray) -> np.ndarray:
    """(K, S) pool of each series at each cutoff, for its regime (K, S) there."""
    if release.blend.group == "regime":
        return regime
    if release.blend.group == "all" or not release.series_ids:  # without a history all series start together
        return np.zeros(regime.shape, dtype=np.int64)
    own = {name: i for i, name in enumerate(release.series_ids)}
    return np.broadcast_to(np.array([own.get(name, -1) for name in series_ids], dtype=np.int64), regime.shape)


def get_history_timeline(release: Release) -> ReplayTimeline:
    """The release's history as a line over its own series; computed once for a release."""
    if "line" not in release.kept:
        release.kept["line"] = _build_history_timeline(release)
    line: ReplayTimeline = release.kept["line"]
    return line


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
    if release.blend.regime:
        regime[where[:2]] = frame["regime"].to_numpy()
    cutoff, z = cutoffs.to_physical().to_numpy(), dense("z")
    lacked = np.zeros(shape, dtype=bool)
    further = release.kind.list_columns(release.about)[1:] if release.blend.quantile_members else ()
    base, said = (
        np.stack([dense(name) for name in names], axis=-1) if names else None
        for names in (further, list_member_columns(release.how))
    )
    return ReplayTimeline(
        dense("z_hat"),
        scale,
        z,
        find_learning_cutoffs(cutoff, cutoff, known, lacked, 0),
        np.ones(len(cutoff), dtype=bool),
        build_pool_groups(release, release.series_ids, regime),
        release.kind,
        base,
        series_ids=release.series_ids,
        cutoff=cutoff,
        known_us=known,
        n_history=len(cutoff),
        lacked=lacked,
        regime=regime,
        said=said,
    )


def predict_requests(
    release: Release, line: ReplayTimeline, asks: Sequence[ReplayRequest]
) -> list[np.ndarray]:
    """For each of *asks*, which ascend in time, (S, H, C) in the space in which members are
    combined; NaN where nothing is known.
    """
    done = [int(n) for n in np.searchsorted(line.cutoff, [ask.at_us for ask in asks], side="right")]
    out = []
    walker = _start_cursor(release, line, done[0]) if done else None
    for ask, stop in zip(asks, done, strict=True):
        assert walker is not None
        _run_cursor(release, line, walker, stop)
        out.append(_predict_request(release, line, walker, ask))
    return out


def _start_cursor(release: Release, line: ReplayTimeline, first: int) -> ReplayCursor:
    """A walker that stands as far as another one came on the same past, at most at *first*; at
    the beginning when there is none.
    """
    walks: dict[int, tuple[ReplayTimeline, ReplayCursor]] = release.kept.get("walks", {})
    for at in sorted((at for at in list(walks) if at <= first), reverse=True):
        past, walker = walks[at]
        if _is_past_of(past, line, at):
            issued = np.full((*line.z_hat.shape, walker.state.n_kept), np.nan)
            issued[:at, find_series_positions(line.series_ids, past.series_ids)] = walker.issued[:at]
            return ReplayCursor(deepcopy(walker.state), issued, at)
    return _build_cursor(release, line)


def _is_past_of(past: ReplayTimeline, line: ReplayTimeline, at: int) -> bool:
    """Whether the first *at* cutoffs of both lines issue and teach the same.

    Exact: what is kept never changes an answer.
    """
    if (
        len(past.cutoff) < at
        or not set(past.series_ids) <= set(line.series_ids)
        or not np.array_equal(past.cutoff[:at], line.cutoff[:at])
    ):
        return False
    shared = find_series_positions(line.series_ids, past.series_ids)
    further = np.setdiff1d(np.arange(len(line.series_ids)), shared)
    if np.isfinite(line.z_hat[:at, further]).any():
        return False
    due, before = (np.minimum(part.due[:at], at) for part in (line, past))
    learned = before < at
    return (
        np.array_equal(due[:, shared], before)
        and np.array_equal(
            np.isfinite(line.z_hat[:at, shared]).any(axis=2), np.isfinite(past.z_hat[:at]).any(axis=2)
        )
        and np.array_equal(line.lessons[:at, shared][learned], past.lessons[:at][learned])
        and np.array_equal(line.group[:at, shared], past.group[:at])
    )


def _save_cursor(release: Release, line: ReplayTimeline, walker: ReplayCursor) -> None:
    walks = release.kept.setdefault("walks", {})
    walks.pop(walker.at, None)
    walks[walker.at] = (line, ReplayCursor(deepcopy(walker.state), walker.issued, walker.at))
    while len(walks) > max(2, min(KEPT_WALKS, KEPT_BYTES // walker.state.nbytes)):
        del walks[next(iter(walks))]


def _build_cursor(release: Release, line: ReplayTimeline) -> ReplayCursor:
    blend = release.blend
    n_groups = {"all": 1, "regime": len(blend.regime.above) + 1 if blend.regime else 1}.get(
        blend.group, max(1, len(release.series_ids))
    )
    spec = CalibrationSpec(blend.residuals, blend.adapt_rate, blend.block, bool(blend.quantile_members))
    state = release.kind.build_calibrator(release.about, spec, n_groups, release.schema.horizon_steps)
    return ReplayCursor(state, np.full((*line.z_hat.shape, state.n_kept), np.nan))


def _run_cursor(release: Release, line: ReplayTimeline, walker: ReplayCursor, stop: int) -> None:
    while walker.at < stop:
        if walker.at % KEPT_EVERY == 0 and walker.at:
            _save_cursor(release, line, walker)
        walker.walk_forward(line, min(stop, (walker.at // KEPT_EVERY + 1) * KEPT_EVERY))


def _predict_request(
    release: Release, line: ReplayTimeline, walker: ReplayCursor, ask: ReplayRequest
) -> np.ndarray:
    state, at = walker.state, walker.at
    # Between two cutoffs of the stride: what became known since the last one counts too
    if at and line.cutoff[at - 1] < ask.at_us:
        since = np.flatnonzero(
            (line.due[:at] >= at) & (line.due[:at] != NEVER) & (line.known_us[:at] <= ask.at_us)
        )
        if len(since):
            state = deepcopy(state)
            walker.learn(line, since, state)
    columns = np.full((*ask.z_hat.shape, len(release.kind.list_columns(release.about))), np.nan)
    there = np.isfinite(ask.z_hat).any(axis=1)
    if there.any():
        z_hat, scale, group = ask.z_hat[there], ask.scale[there], ask.group[there]
        base = None if ask.base is None else ask.base[there]
        columns[there, :, 0] = state.compute_points(group, z_hat, scale)
        columns[there, :, 1:] = state.compute_further(state.issue(group), z_hat, scale, base)
    return columns
