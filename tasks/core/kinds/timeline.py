"""Forecasts along time: what had been issued, what of it had become known, and a walk along it.

The state of a calibration is a pure function of what was issued and of what was known when; nothing
is stored but the forecasts themselves.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tasks.core.kinds.base import Calibrator, Kind

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Timeline:
    """Forecasts in the order in which they were issued: K cutoffs, S series, H steps.

    z_hat: (K, S, H) combined forecasts, NaN where there is none.
    scale: (K, S).
    z: (K, S, H) outcomes, NaN where unknown.
    known_k: (K, S, H) index of the first later cutoff that knows z, K where none does.
    learns: (K,) False for cutoffs that are asked for but are off the stride: they are issued, and
      nothing is learned from them.
    group: (S,), or (K, S) where it changes with the origin: the pool of each series; -1 uses all
      pools.
    kind: of the target.
    base: (K, S, H, C - 1) the members' own further columns.
    """

    z_hat: np.ndarray
    scale: np.ndarray
    z: np.ndarray
    known_k: np.ndarray
    learns: np.ndarray
    group: np.ndarray
    kind: Kind
    base: np.ndarray | None = None

    @cached_property
    def groups(self) -> np.ndarray:
        """(K, S)."""
        return np.broadcast_to(self.group, self.scale.shape)

    @cached_property
    def lessons(self) -> np.ndarray:
        """(K, S, H, L) what is learned of each forecast."""
        return self.kind.build_lessons(self.z, self.z_hat, self.scale, self.base)

    @cached_property
    def due(self) -> np.ndarray:
        """(K, S, H) index of the cutoff that learns it.

        It is K or more where the timeline ends before; NEVER where nothing is to be learned.
        """
        usable = (
            np.isfinite(self.lessons).all(axis=-1) & (self.learns[:, None] & (self.groups >= 0))[:, :, None]
        )
        out: np.ndarray = np.where(usable, self.known_k, NEVER)
        return out

    @cached_property
    def schedule(self) -> tuple[np.ndarray, np.ndarray]:
        """Flat positions in the order in which they are learned.

        Returns them, and for each cutoff where its part of them starts.
        """
        n_cutoffs = len(self.z_hat)
        due = np.minimum(self.due.ravel(), n_cutoffs)
        # 16 bits are sorted in linear time
        order = np.argsort(
            due.astype(np.uint16) if n_cutoffs < np.iinfo(np.uint16).max else due, kind="stable"
        )
        return order, np.searchsorted(due[order], np.arange(n_cutoffs + 1))


class IssuedForecasts(NamedTuple):
    """Forecasts as they were issued.

    columns: (K, S, H, C) in the space in which members are combined, the point first; of the
      further ones none where points alone were asked for. NaN before anything is known.
    """

    columns: np.ndarray

    @property
    def point(self) -> np.ndarray:
        """(K, S, H)."""
        out: np.ndarray = self.columns[..., 0]
        return out

    @property
    def further(self) -> np.ndarray:
        """(K, S, H, C - 1)."""
        out: np.ndarray = self.columns[..., 1:]
        return out


@dataclass
class ReplayCursor:
    """How far a walk along a timeline is.

    state: of the calibration.
    issued: (K, S, H, n_kept) what was issued, of width 0 where only points are wanted.
    n_done: cutoffs that are done.
    """

    state: Calibrator
    issued: np.ndarray
    n_done: int = 0

    def walk_forward(self, timeline: Timeline, end: int) -> None:
        """Cutoff by cutoff before *end*, first learn what has become known, then issue."""
        order, bounds = timeline.schedule
        for k in range(self.n_done, end):
            self.learn(timeline, order[bounds[k] : bounds[k + 1]], self.state)
            is_issued = np.isfinite(timeline.z_hat[k]).any(axis=1)
            if self.issued.shape[-1] and is_issued.any():
                self.issued[k, is_issued] = self.state.issue(timeline.groups[k, is_issued])
            self.n_done = k + 1

    def learn(self, timeline: Timeline, flat: np.ndarray, state: Calibrator) -> None:
        """Teach *state* the outcomes at the flat positions."""
        k, s, h = np.unravel_index(flat, timeline.z_hat.shape)
        state.learn(timeline.groups[k, s], h, timeline.lessons[k, s, h], self.issued[k, s, h])


def calibrate(
    timeline: Timeline,
    state: Calibrator,
    n_columns: int,
    wanted: np.ndarray | None = None,
) -> IssuedForecasts:
    """Walk along *timeline*; *state* is updated.

    n_columns: C; 1 asks for points alone, which is several times faster.
    wanted: (K,) cutoffs whose results are needed; others are issued only as far as learning asks.
    """
    only_points = n_columns == 1
    cursor = ReplayCursor(state, np.full((*timeline.z_hat.shape, 0 if only_points else state.n_kept), np.nan))
    columns = np.full((*timeline.z_hat.shape, n_columns), np.nan)
    for k in range(len(timeline.z_hat)):
        cursor.walk_forward(timeline, k + 1)
        is_issued = np.isfinite(timeline.z_hat[k]).any(axis=1)
        if is_issued.any() and (wanted is None or wanted[k]):
            z_hat, scale = timeline.z_hat[k, is_issued], timeline.scale[k, is_issued]
            if not only_points:
                base = None if timeline.base is None else timeline.base[k, is_issued]
                columns[k, is_issued, :, 1:] = state.compute_further(
                    cursor.issued[k, is_issued], z_hat, scale, base
                )
            columns[k, is_issued, :, 0] = state.compute_points(timeline.groups[k, is_issued], z_hat, scale)
    return IssuedForecasts(columns if only_points else hold_point(columns, state))


def hold_point(columns: np.ndarray, state: Calibrator) -> np.ndarray:
    """*columns* (..., C) whose outer quantiles reach to the point, where they are an interval.

    A mean can be beyond the quantiles of a skewed distribution.
    """
    if state.is_interval and columns.shape[-1] > 2:
        columns[..., 1] = np.minimum(columns[..., 1], columns[..., 0])
        columns[..., -1] = np.maximum(columns[..., -1], columns[..., 0])
    return columns
