"""All members' forecasts on one timeline: the cutoffs of the walk, then those of the gate's
rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import FrameError
from tasks.core.frames import UTC
from tasks.core.panel import Panel
from tasks.core.transform import transform_target_array
from tasks.release.conformal import Timeline


@dataclass(frozen=True)
class AlignedForecasts:
    """M members, K cutoffs, S series, H steps. z_hat: (M, K, S, H), NaN where a member says
    nothing. y, z, known_k: (K, S, H).

    times: event_time of every grid step and of the horizon after the last. origins: (K,) grid
    positions. known_k: index of the first cutoff that knows y, K where none does. scale: (K, S).
    learns: (K,) the cutoffs on the stride, which move the conformal state. n_walk: the first n_walk
    cutoffs are the walk's, the rest are the gate's.
    quantile_members: by quantile (`0.1`) the models that forecast it; of_quantile: (K, S, H) the
    mean of what they say.
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
    of_quantile: dict[str, np.ndarray] = field(default_factory=dict)

    def build_base_quantiles(self, quantiles: tuple[float, ...], z_hat: np.ndarray) -> np.ndarray:
        """(K, S, H, Q) the members' own quantiles; z_hat stands for a quantile that none
        forecasts.
        """
        return np.stack([self.of_quantile.get(f"{q:g}", z_hat) for q in quantiles], axis=-1)

    def keys(self, k: np.ndarray) -> pl.DataFrame:
        """series_id, cutoff, step, event_time of every (cutoff of *k*, series, step), in that
        order.
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
        """The walk alone."""
        n = self.n_walk
        of_cutoffs = {
            name: getattr(self, name)[:n] for name in ("origins", "y", "z", "known_k", "scale", "learns")
        }
        return replace(
            self,
            z_hat=self.z_hat[:, :n],
            of_quantile={q: said[:n] for q, said in self.of_quantile.items()},
            **of_cutoffs,
        )

    def build_timeline(self, z_hat: np.ndarray, group: np.ndarray) -> Timeline:
        """Timeline of one set of forecasts (K, S, H)."""
        return Timeline(z_hat, self.scale, self.z, self.known_k, self.learns, group)

    def is_known_by(self, k: int) -> np.ndarray:
        """(K, S, H) forecasts of earlier cutoffs whose outcome the cutoff with index *k* knows."""
        earlier = (np.arange(len(self.origins)) < k)[:, None, None]
        return (self.known_k <= k) & np.isfinite(self.z) & earlier


def align_forecasts(
    walk: dict[str, pl.DataFrame],
    gate: dict[str, pl.DataFrame],
    panel: Panel,
    calendar: Calendar,
    about: About,
    stride_steps: int,
    quantile_of: Mapping[str, float] = MappingProxyType({}),
) -> AlignedForecasts:
    """Lay the members' FORECAST frames on one timeline; what came true is read from the panel.

    Raises FrameError for cutoffs off the grid. The gate's first cutoff is seen_until, which the
    walk has too: the walk's forecast stays. quantile_of: the models that forecast a quantile, which
    have no say in the point.
    """
    both = {m: pl.concat([walk[m], gate[m].filter(pl.col("cutoff") > walk[m]["cutoff"].max())]) for m in walk}
    cutoffs = pl.concat([frame["cutoff"] for frame in both.values()]).unique().sort()
    # Unsigned otherwise: differences would wrap
    origins = panel.cutoff.search_sorted(cutoffs).to_numpy().astype(np.int64)
    if len(origins) and (origins[-1] >= len(panel.cutoff) or (panel.cutoff.gather(origins) != cutoffs).any()):
        raise FrameError(
            "data/forecasts has cutoffs that are not on the grid of data/features. Rebuild them: `dvc repro"
            " train`."
        )
    n_walk = int((cutoffs <= min(frame["cutoff"].max() for frame in walk.values())).sum())  # type: ignore[type-var]
    shape = (len(cutoffs), len(panel.series_ids), panel.schema.horizon_steps)
    ids = pl.Series(panel.series_ids)
    z_hat = np.full((len(both), *shape), np.nan)
    for i, frame in enumerate(both.values()):
        at = (
            cutoffs.search_sorted(frame["cutoff"]).to_numpy(),
            ids.search_sorted(frame["series_id"]).to_numpy(),
            frame["step"].to_numpy() - 1,
        )
        z_hat[(i, *at)] = transform_target_array(about.target, frame["y_hat"].to_numpy())
    n_steps = len(panel.event_time)
    ahead = origins[:, None] + np.arange(1, shape[2] + 1)
    there = np.broadcast_to((ahead < n_steps)[:, None, :], shape)
    ahead = np.minimum(ahead, n_steps - 1)
    y, z = (np.where(there, values[ahead].transpose(0, 2, 1), np.nan) for values in (panel.y, panel.z))
    known_k = np.where(
        there, np.searchsorted(origins, panel.known_pos[ahead].transpose(0, 2, 1)), len(origins)
    )
    scale = panel.schema.get_scales(panel.x[origins].reshape(-1, panel.x.shape[2])).reshape(shape[:2])
    since = origins - origins[n_walk - 1]
    times = pl.concat([panel.event_time, calendar.list_next_steps(panel.event_time[-1], shape[2])])
    learns = (since <= 0) | (since % stride_steps == 0)
    members = [i for i, name in enumerate(both) if name not in quantile_of]
    named: dict[str, list[str]] = {}
    for name in (name for name in both if quantile_of.get(name) in about.quantiles):
        named.setdefault(f"{quantile_of[name]:g}", []).append(name)
    of_quantile = {
        q: z_hat[[list(both).index(name) for name in names]].mean(axis=0) for q, names in named.items()
    }
    models = tuple(list(both)[i] for i in members)
    return AlignedForecasts(
        models,
        panel,
        times,
        origins,
        z_hat[members],
        y,
        z,
        known_k,
        scale,
        learns,
        n_walk,
        {q: tuple(names) for q, names in named.items()},
        of_quantile,
    )
