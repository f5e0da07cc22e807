"""Weights that follow the members' recent losses, series by series, in stage and service alike.

A member's recent loss at a cutoff is the mean of its scaled errors, squared or absolute, whose
outcome was known by then. With each cutoff of the stride, what was known before it fades, to a half
over the half-life. A member's weight is that loss to the power of minus two.
Source: Bates & Granger 1969, doi:10.1057/jors.1969.103.

Nothing is stored but the members' forecasts along the history: the losses at any cutoff follow from
them and from the rows known by it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tasks.core.kinds.base import Kind
from tasks.release.combine import Recency, compute_weighted_average
from tasks.release.load import Release
from tasks.release.origins import MemberForecasts, find_series_positions
from tasks.release.outputs import fill_bases
from tasks.release.replay import ReplayTimeline, find_learning_cutoffs, get_history_timeline

_FOLLOWS = 2.0


def compute_recent_losses(
    learned: np.ndarray, learns: np.ndarray, half_life_cutoffs: int, start: np.ndarray | None = None
) -> np.ndarray:
    """(n, M, S) recent losses at n cutoffs, NaN where nothing is known.

    learned: (2, n, M, S) of `compute_learned_losses`.
    learns: (n,) which of them are on the stride; what becomes known between two of these counts as
      if it had come with the second.
    start: (2, M, S) what was summed before the first, as it counts there.
    """
    state = np.zeros((2, *learned.shape[2:])) if start is None else start
    out, is_past, fade = np.empty(learned.shape[1:]), False, 0.5 ** (1 / half_life_cutoffs)
    for k, on_stride in enumerate(learns):
        state = (fade if is_past else 1.0) * state + learned[:, k]
        out[k] = np.divide(state[0], state[1], out=np.full(state.shape[1:], np.nan), where=state[1] > 0)
        is_past = bool(on_stride)
    return out


def compute_learned_losses(
    z_hats: np.ndarray,
    z: np.ndarray,
    scale: np.ndarray,
    learned_k: np.ndarray,
    first: int,
    end: int,
    *,
    absolute: bool,
    kind: Kind,
) -> np.ndarray:
    """(2, end - first, M, S) sums of losses, and their numbers, by the cutoff that learns them.

    z_hats: (M, K, S, H) the members' forecasts.
    learned_k: (K, S, H) the cutoff at which each is learned.
    """
    k, s, h = np.nonzero((learned_k >= first) & (learned_k < end))
    error = kind.compute_member_error(z[k, s, h], z_hats[:, k, s, h]) / scale[k, s]
    is_known = np.isfinite(error)
    loss = np.where(is_known, np.abs(error) if absolute else np.square(error), 0.0)
    n, n_series = end - first, z.shape[1]
    cell = (learned_k[k, s, h] - first) * n_series + s
    sums = [
        [np.bincount(cell, of, n * n_series).reshape(n, n_series) for of in each] for each in (loss, is_known)
    ]
    return np.array(sums).reshape(2, len(z_hats), n, n_series).swapaxes(1, 2)


def compute_recent_weights(losses: np.ndarray) -> np.ndarray:
    """(n, M, S) weights from recent losses (n, M, S); they sum to 1 over the members.

    A member of which nothing is known counts like the mean of the others.
    """
    is_known = np.isfinite(losses)
    n = is_known.sum(axis=1, keepdims=True)
    mean = np.where(n > 0, np.where(is_known, losses, 0.0).sum(axis=1, keepdims=True) / np.maximum(n, 1), 1.0)
    loss = np.maximum(np.where(is_known, losses, mean), 1e-12)
    weights = (loss / loss.min(axis=1, keepdims=True)) ** -_FOLLOWS
    out: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return out


def apply_recent_weights(weights: np.ndarray, z_hats: np.ndarray) -> np.ndarray:
    """(n, S, H) of the members' forecasts (M, n, S, H) by weights (n, M, S)."""
    rows = z_hats.transpose(1, 2, 0, 3).reshape(-1, len(z_hats), z_hats.shape[3])
    table = weights.transpose(0, 2, 1).reshape(-1, len(z_hats), 1)
    return compute_weighted_average(table, rows, np.arange(len(rows))).reshape(z_hats.shape[1:])


def apply_recency(
    release: Release,
    recent: Recency,
    timeline: ReplayTimeline,
    seen: MemberForecasts,
    requested_us: Sequence[int],
) -> tuple[ReplayTimeline, MemberForecasts]:
    """*timeline* and *seen* with the combined forecast, by the weights of each cutoff.

    requested_us: times of the last cutoffs of *seen*, from which nothing is learned.
    """
    assert timeline.member_z_hat is not None
    assert seen.member_z_hat is not None
    n_history, n_timeline = timeline.n_history, len(timeline.cutoff)
    times = np.concatenate([timeline.cutoff, np.array(requested_us, dtype=np.int64)])
    order = np.argsort(times, kind="stable")
    times, first = times[order], int(np.flatnonzero(order >= n_history)[0])
    n_whole = int(np.flatnonzero(order < n_history).max(initial=-1)) + 1
    learned_k = find_learning_cutoffs(times, timeline.cutoff, timeline.known_us, timeline.missing, n_whole)
    learned = compute_learned_losses(
        np.moveaxis(timeline.member_z_hat, -1, 0),
        timeline.z,
        timeline.scale,
        learned_k,
        first,
        len(order),
        absolute=recent.absolute,
        kind=release.kind,
    )
    losses = compute_recent_losses(
        learned,
        order[first:] < n_timeline,
        recent.half_life_cutoffs,
        _compute_history_losses(release, recent, timeline.series_ids, first),
    )
    is_new = order >= n_history
    z_hat = np.empty_like(seen.z_hat)
    of_seen = order[is_new] - n_history
    weights = np.empty((len(z_hat), *losses.shape[1:]))
    weights[of_seen] = compute_recent_weights(losses[is_new[first:]])
    z_hat[of_seen] = apply_recent_weights(weights[of_seen], np.moveaxis(seen.member_z_hat, -1, 0)[:, of_seen])
    seen = replace(seen, z_hat=z_hat, base=_build_quantile_bases(release, seen.base, z_hat), weights=weights)
    z_hat = np.concatenate([timeline.z_hat[:n_history], z_hat[: n_timeline - n_history]])
    return replace(timeline, z_hat=z_hat, base=_build_quantile_bases(release, timeline.base, z_hat)), seen


def _build_quantile_bases(release: Release, base: np.ndarray | None, z_hat: np.ndarray) -> np.ndarray | None:
    """The members' own quantiles; a quantile that none forecasts starts from z_hat."""
    return None if base is None else fill_bases(release.ensemble, base, z_hat)


def _compute_history_losses(
    release: Release, recent: Recency, series_ids: tuple[str, ...], first: int
) -> np.ndarray:
    """(2, M, S) sums of the *first* cutoffs of the history, as they count at the next one.

    Those of the whole history are computed once for a release.
    """
    past = get_history_timeline(release)
    summed = release.cache.get("recent") if first == past.n_history else None
    if summed is None:
        assert past.member_z_hat is not None
        learned = compute_learned_losses(
            np.moveaxis(past.member_z_hat, -1, 0),
            past.z,
            past.scale,
            past.known_k,
            0,
            first,
            absolute=recent.absolute,
            kind=release.kind,
        )
        summed = np.tensordot(
            0.5 ** ((first - np.arange(first)) / recent.half_life_cutoffs), learned, axes=(0, 1)
        )
        if first == past.n_history:
            release.cache["recent"] = summed
    out = np.zeros((*summed.shape[:2], len(series_ids)))
    out[:, :, find_series_positions(series_ids, past.series_ids)] = summed
    return out
