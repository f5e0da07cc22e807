"""Weights that follow the members' recent losses, series by series: one walk for the stage that
scores and for the service that answers.

A member's recent loss at a cutoff is the mean of its scaled errors, squared or absolute, whose
outcome was known by then; each cutoff of the stride that passes fades what was known before it, to
a half over the half-life. Its weight is that loss to the power of minus two.
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
from tasks.release.replay import ReplayTimeline, find_learning_cutoffs, get_history_timeline

_FOLLOWS = 2.0


def compute_recent_losses(
    learned: np.ndarray, learns: np.ndarray, half_life_cutoffs: int, start: np.ndarray | None = None
) -> np.ndarray:
    """(n, M, S) recent losses at n cutoffs, NaN where nothing is known. learned: (2, n, M, S) of
    `compute_learned_losses`.

    learns: (n,) which of them lie on the stride; what becomes known between two of these counts as
    if it had come with the second. start: (2, M, S) what was summed before the first, as it counts
    there.
    """
    state = np.zeros((2, *learned.shape[2:])) if start is None else start
    out, passed, fade = np.empty(learned.shape[1:]), False, 0.5 ** (1 / half_life_cutoffs)
    for k, on_stride in enumerate(learns):
        state = (fade if passed else 1.0) * state + learned[:, k]
        out[k] = np.divide(state[0], state[1], out=np.full(state.shape[1:], np.nan), where=state[1] > 0)
        passed = bool(on_stride)
    return out


def compute_learned_losses(
    said: np.ndarray,
    z: np.ndarray,
    scale: np.ndarray,
    at: np.ndarray,
    first: int,
    until: int,
    *,
    absolute: bool,
    kind: Kind,
) -> np.ndarray:
    """(2, until - first, M, S) summed losses of forecasts said (M, K, S, H), and their number,
    by the cutoff *at* (K, S, H) which they are learned.
    """
    k, s, h = np.nonzero((at >= first) & (at < until))
    error = kind.compute_member_error(z[k, s, h], said[:, k, s, h]) / scale[k, s]
    there = np.isfinite(error)
    loss = np.where(there, np.abs(error) if absolute else np.square(error), 0.0)
    n, n_series = until - first, z.shape[1]
    cell = (at[k, s, h] - first) * n_series + s
    sums = [
        [np.bincount(cell, of, n * n_series).reshape(n, n_series) for of in each] for each in (loss, there)
    ]
    return np.array(sums).reshape(2, len(said), n, n_series).swapaxes(1, 2)


def compute_recent_weights(losses: np.ndarray) -> np.ndarray:
    """(n, M, S), sum 1 over the members, from recent losses (n, M, S); one of which nothing is
    known counts like the mean of the others.
    """
    there = np.isfinite(losses)
    n = there.sum(axis=1, keepdims=True)
    mean = np.where(n > 0, np.where(there, losses, 0.0).sum(axis=1, keepdims=True) / np.maximum(n, 1), 1.0)
    loss = np.maximum(np.where(there, losses, mean), 1e-12)
    weights = (loss / loss.min(axis=1, keepdims=True)) ** -_FOLLOWS
    out: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return out


def apply_recent_weights(weights: np.ndarray, said: np.ndarray) -> np.ndarray:
    """(n, S, H) of the members' forecasts (M, n, S, H) by weights (n, M, S)."""
    rows = said.transpose(1, 2, 0, 3).reshape(-1, len(said), said.shape[3])
    table = weights.transpose(0, 2, 1).reshape(-1, len(said), 1)
    return compute_weighted_average(table, rows, np.arange(len(rows))).reshape(said.shape[1:])


def apply_recency(
    release: Release, recent: Recency, line: ReplayTimeline, seen: MemberForecasts, asked_us: Sequence[int]
) -> tuple[ReplayTimeline, MemberForecasts]:
    """*line* and *seen* with what the members say together, by the weights of each cutoff.
    asked_us: times of the last cutoffs of *seen*, from which nothing is learned.
    """
    assert line.said is not None
    assert seen.said is not None
    n_history, n_line = line.n_history, len(line.cutoff)
    times = np.concatenate([line.cutoff, np.array(asked_us, dtype=np.int64)])
    order = np.argsort(times, kind="stable")
    times, first = times[order], int(np.flatnonzero(order >= n_history)[0])
    whole = int(np.flatnonzero(order < n_history).max(initial=-1)) + 1
    at = find_learning_cutoffs(times, line.cutoff, line.known_us, line.lacked, whole)
    learned = compute_learned_losses(
        np.moveaxis(line.said, -1, 0),
        line.z,
        line.scale,
        at,
        first,
        len(order),
        absolute=recent.absolute,
        kind=release.kind,
    )
    losses = compute_recent_losses(
        learned,
        order[first:] < n_line,
        recent.half_life_cutoffs,
        _compute_history_losses(release, recent, line.series_ids, first),
    )
    spoken = order >= n_history
    z_hat = np.empty_like(seen.z_hat)
    of_seen = order[spoken] - n_history
    z_hat[of_seen] = apply_recent_weights(
        compute_recent_weights(losses[spoken[first:]]), np.moveaxis(seen.said, -1, 0)[:, of_seen]
    )
    seen = replace(seen, z_hat=z_hat, base=_build_quantile_bases(release, seen.base, z_hat))
    z_hat = np.concatenate([line.z_hat[:n_history], z_hat[: n_line - n_history]])
    return replace(line, z_hat=z_hat, base=_build_quantile_bases(release, line.base, z_hat)), seen


def _build_quantile_bases(release: Release, base: np.ndarray | None, z_hat: np.ndarray) -> np.ndarray | None:
    """The members' own quantiles; a quantile that none forecasts starts from z_hat."""
    own = [f"{q:g}" in release.blend.quantile_members for q in release.blend.quantiles]
    return None if base is None else np.where(own, base, z_hat[..., None])


def _compute_history_losses(
    release: Release, recent: Recency, series_ids: tuple[str, ...], first: int
) -> np.ndarray:
    """(2, M, S) what the *first* cutoffs of the history taught, as it counts at the next one; of
    all of them computed once for a release.
    """
    past = get_history_timeline(release)
    taught = release.kept.get("recent") if first == past.n_history else None
    if taught is None:
        assert past.said is not None
        learned = compute_learned_losses(
            np.moveaxis(past.said, -1, 0),
            past.z,
            past.scale,
            past.known_k,
            0,
            first,
            absolute=recent.absolute,
            kind=release.kind,
        )
        taught = np.tensordot(
            0.5 ** ((first - np.arange(first)) / recent.half_life_cutoffs), learned, axes=(0, 1)
        )
        if first == past.n_history:
            release.kept["recent"] = taught
    out = np.zeros((*taught.shape[:2], len(series_ids)))
    out[:, :, find_series_positions(series_ids, past.series_ids)] = taught
    return out
