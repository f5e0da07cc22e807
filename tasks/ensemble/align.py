"""All members' forecasts on one timeline.

First the cutoffs of the walk-forward evaluation, then those of the gate's rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.errors import FrameError
from tasks.core.frames import UTC
from tasks.core.kinds.base import Kind
from tasks.core.kinds.timeline import Timeline
from tasks.core.panel import Panel


@dataclass(frozen=True)
class AlignedForecasts:
    """M members, K cutoffs, S series, H steps.

    models: names of the members.
    times: event_time of every grid step and of the horizon after the last.
    origins: (K,) grid positions.
    z_hat: (M, K, S, H), NaN where a member has no forecast.
    y, z: (K, S, H) outcomes, NaN where unknown.
    known_k: (K, S, H) index of the first cutoff that knows y, K where none does.
    scale: (K, S) what errors are divided by.
    learns: (K,) the cutoffs on the stride, which move the conformal state.
    n_walk: the first n_walk cutoffs are the walk's, the rest are the gate's.
    quantile_members: by quantile (`0.1`) the models that forecast it.
    quantile_forecasts: by quantile (K, S, H) the mean of their forecasts.
    """

    models: tuple[str, ...]
    panel: Panel
    times: pl.Series
    origins: np.ndarray
    z_hat: np.ndarray
    y: np.ndarray
    z: np.ndarray
    known_k: np.ndarray
    scale: np.ndarray
    learns: np.ndarray
    n_walk: int
    quantile_members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    quantile_forecasts: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def about(self) -> About:
        """What the dataset is."""
        return self.panel.dataset.about

    @property
    def kind(self) -> Kind:
        """The kind of the target."""
        return self.panel.dataset.kind

    def build_base_quantiles(self, quantiles: tuple[float, ...], z_hat: np.ndarray) -> np.ndarray:
        """(K, S, H, Q) the members' own quantiles.

        z_hat: (K, S, H) used for a quantile that no member forecasts.
        """
        return np.stack([self.quantile_forecasts.get(f"{q:g}", z_hat) for q in quantiles], axis=-1)

    def build_keys(self, k: np.ndarray) -> pl.DataFrame:
        """series_id, cutoff, step and event_time of every forecast.

        k: indices of cutoffs. Rows are in the order of k, series and step.
        """
        n_series, steps = self.y.shape[1:]
        ahead = self.origins[k][:, None, None] + np.arange(1, steps + 1)[None, None, :]
        return pl.DataFrame(
            {
                "series_id": (
                    pl.Series(self.panel.series_ids, dtype=pl.String).gather(
                        np.tile(np.repeat(np.arange(n_series), steps), len(k))
                    )
                ),
                "cutoff": self.panel.cutoff.gather(np.repeat(self.origins[k], n_series * steps)),
                "step": np.tile(np.arange(1, steps + 1, dtype=np.int32), len(k) * n_series),
                "event_time": (
                    self.times.gather(np.broadcast_to(ahead, (len(k), n_series, steps)).ravel()).cast(UTC)
                ),
            }
        )

    def select_walk(self) -> "AlignedForecasts":
        """The cutoffs of the walk alone."""
        n = self.n_walk
        cutoff_arrays = {
            name: getattr(self, name)[:n] for name in ("origins", "y", "z", "known_k", "scale", "learns")
        }
        return replace(
            self,
            z_hat=self.z_hat[:, :n],
            quantile_forecasts={q: values[:n] for q, values in self.quantile_forecasts.items()},
            **cutoff_arrays,
        )

    def build_timeline(self, z_hat: np.ndarray, group: np.ndarray) -> Timeline:
        """Timeline of one set of forecasts (K, S, H)."""
        return Timeline(z_hat, self.scale, self.z, self.known_k, self.learns, group, self.kind)

    def is_known_by(self, k: int) -> np.ndarray:
        """(K, S, H) forecasts of earlier cutoffs whose outcome the cutoff with index *k* knows."""
        earlier = (np.arange(len(self.origins)) < k)[:, None, None]
        return (self.known_k <= k) & np.isfinite(self.z) & earlier


class TimelinePositions(NamedTuple):
    """Positions of the forecasts in time.

    cutoffs, origins: (K,) of each.
    """

    cutoffs: pl.Series
    origins: np.ndarray
    n_walk: int


def align_forecasts(
    walk: dict[str, pl.DataFrame],
    gate: dict[str, pl.DataFrame],
    panel: Panel,
    stride_steps: int,
    quantile_of: Mapping[str, float] = MappingProxyType({}),
) -> AlignedForecasts:
    """The members' FORECAST frames on one timeline, with outcomes from the panel.

    walk, gate: by model. The gate's first cutoff is seen_until, which the walk has too: the walk's
      forecast is kept.
    quantile_of: by model the quantile that it forecasts; such a model is not used for the point.
    Raises FrameError for cutoffs that are not on the grid.
    """
    frames = {
        m: pl.concat([walk[m], gate[m].filter(pl.col("cutoff") > walk[m]["cutoff"].max())]) for m in walk
    }
    positions = _find_positions(frames, walk, panel)
    z_hat = _build_member_array(frames, positions, panel)
    y, z, known_k = _build_outcomes(panel, positions.origins)
    origins, n_walk = positions.origins, positions.n_walk
    x = panel.x[origins]
    horizon = panel.dataset.calendar.list_next_steps(panel.event_time[-1], panel.schema.horizon_steps)
    steps_since_seen = origins - origins[n_walk - 1]
    names = list(frames)
    members = [i for i, name in enumerate(names) if name not in quantile_of]
    quantile_members = _group_by_quantile(names, quantile_of, panel.dataset.about.quantiles)
    return AlignedForecasts(
        tuple(names[i] for i in members),
        panel,
        pl.concat([panel.event_time, horizon]),
        origins,
        z_hat[members],
        y,
        z,
        known_k,
        panel.schema.get_scales(x.reshape(-1, x.shape[2])).reshape(x.shape[:2]),
        (steps_since_seen <= 0) | (steps_since_seen % stride_steps == 0),
        n_walk,
        quantile_members,
        {q: z_hat[[names.index(m) for m in models]].mean(axis=0) for q, models in quantile_members.items()},
    )


def _find_positions(
    frames: dict[str, pl.DataFrame], walk: dict[str, pl.DataFrame], panel: Panel
) -> TimelinePositions:
    cutoffs = pl.concat([frame["cutoff"] for frame in frames.values()]).unique().sort()
    # Signed, so that differences cannot wrap
    origins = panel.cutoff.search_sorted(cutoffs).to_numpy().astype(np.int64)
    if len(origins) and (origins[-1] >= len(panel.cutoff) or (panel.cutoff.gather(origins) != cutoffs).any()):
        raise FrameError(
            "data/forecasts has cutoffs that are not on the grid of data/features. Rebuild them: `dvc repro"
            " train`."
        )
    n_walk = int((cutoffs <= min(frame["cutoff"].max() for frame in walk.values())).sum())  # type: ignore[type-var]
    return TimelinePositions(cutoffs, origins, n_walk)


def _build_member_array(
    frames: dict[str, pl.DataFrame], positions: TimelinePositions, panel: Panel
) -> np.ndarray:
    """(M, K, S, H) forecasts in the space in which they are combined, NaN where there is none."""
    ids, about, kind = pl.Series(panel.series_ids), panel.dataset.about, panel.dataset.kind
    point = kind.list_columns(about)[0]
    shape = (len(frames), len(positions.cutoffs), len(ids), panel.schema.horizon_steps)
    z_hat = np.full(shape, np.nan)
    for i, frame in enumerate(frames.values()):
        index = (
            positions.cutoffs.search_sorted(frame["cutoff"]).to_numpy(),
            ids.search_sorted(frame["series_id"]).to_numpy(),
            frame["step"].to_numpy() - 1,
        )
        z_hat[(i, *index)] = kind.encode_point(about.target, frame[point].to_numpy())
    return z_hat


def _build_outcomes(panel: Panel, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, z and known_k (K, S, H) of the horizon of each origin."""
    n_steps, steps = len(panel.event_time), panel.schema.horizon_steps
    ahead = origins[:, None] + np.arange(1, steps + 1)
    is_inside = np.broadcast_to((ahead < n_steps)[:, None, :], (len(origins), len(panel.series_ids), steps))
    ahead = np.minimum(ahead, n_steps - 1)
    y, z = (np.where(is_inside, values[ahead].transpose(0, 2, 1), np.nan) for values in (panel.y, panel.z))
    first_known = np.searchsorted(origins, panel.known_pos[ahead].transpose(0, 2, 1))
    return y, z, np.where(is_inside, first_known, len(origins))


def _group_by_quantile(
    names: list[str], quantile_of: Mapping[str, float], quantiles: tuple[float, ...]
) -> dict[str, tuple[str, ...]]:
    """By quantile (`0.1`), of those that are issued, the models that forecast it."""
    grouped: dict[str, tuple[str, ...]] = {}
    for name in names:
        if quantile_of.get(name) in quantiles:
            key = f"{quantile_of[name]:g}"
            grouped[key] = (*grouped.get(key, ()), name)
    return grouped
