"""Origins: from cutoffs to grid steps, and from what was known at a cutoff to the members'
forecast there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.blocks import split_blocks
from tasks.core.calendar import parse_step_length
from tasks.core.errors import ReleaseError
from tasks.core.kinds.timeline import NEVER
from tasks.features import add_target, build_features
from tasks.release.combine import apply_combination, compute_regime, compute_weight_groups, find_recency
from tasks.release.load import Release

BLOCK_ROWS = 8192  # bounds the memory of one call into a graph; trees need a few kB for each row
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OriginPoint(NamedTuple):
    """A forecast to make: the grid position of its origin, and the time (microseconds since
    1970) as of which rows are looked at.
    """

    pos: int
    at_us: int


@dataclass(frozen=True)
class OriginGrid:
    """T steps, the horizon of the last possible origin included.

    event_time: (T,). event_us, cutoff_us: (T,) microseconds since 1970, of the steps and of the
    cutoffs they are origins of. first, last: positions of the first row and of the last origin that
    still lies within reach of a row.
    """

    event_time: pl.Series
    event_us: np.ndarray
    cutoff_us: np.ndarray
    first: int
    last: int

    def find_origin(self, at_us: int) -> int:
        """Position of the last step nominally known at *at_us*; -1 before the first."""
        return int(np.searchsorted(self.cutoff_us, at_us, side="right")) - 1

    def get_positions(self, event_time: pl.Series) -> np.ndarray:
        """Position of each of *event_time*, which must be on the grid."""
        return np.searchsorted(self.event_us, event_time.to_physical().to_numpy())


@dataclass(frozen=True)
class MemberForecasts:
    """What the members say at n points for S series. z_hat: (n, S, H), NaN for a series without a
    last value; scale, regime: (n, S).

    base: (n, S, H, Q) the members' own quantiles, None where intervals do not start from them.
    said: (n, S, H, M) each of them alone, where weights move: only tasks.release.recent then says
    z_hat, which is 0 until it does.
    """

    series_ids: tuple[str, ...]
    z_hat: np.ndarray
    scale: np.ndarray
    regime: np.ndarray
    base: np.ndarray | None
    said: np.ndarray | None = None


def convert_to_utc(at: datetime) -> datetime:
    """The same moment in UTC.

    Raises ReleaseError for a time without a zone, which could be any of 24 moments.
    """
    if at.tzinfo is None:
        raise ReleaseError(
            f"Cutoff {at} has no time zone. Give it one, for example {at.replace(tzinfo=UTC).isoformat()}."
        )
    return at.astimezone(UTC)


def convert_to_us(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def predict_ensemble(release: Release, x: np.ndarray) -> np.ndarray:
    """What the members say together (n, H) float64 in the space of z, for feature rows x (n, F)
    float32 in the order of the schema; n may be 0.
    """
    out = np.zeros((len(x), release.schema.horizon_steps))
    for part in split_blocks(len(x), BLOCK_ROWS):
        block = np.ascontiguousarray(x[part], dtype=np.float32)
        z_hats = [_run_member(release, name, block) for name in release.how.members]
        out[part] = apply_combination(
            release.how, np.stack(z_hats, axis=1), compute_weight_groups(release.how, block, release.schema)
        )
    return out


def predict_quantile_bases(release: Release, x: np.ndarray, point: np.ndarray) -> np.ndarray | None:
    """The members' own quantiles (n, H, Q) for feature rows x (n, F); *point* (n, H) stands for a
    quantile that none forecasts.

    None without CQR.
    """
    named = release.blend.quantile_members
    if not named:
        return None
    block = np.ascontiguousarray(x, dtype=np.float32)
    said = {
        m: _predict_member(release, m, block) for m in {name for names in named.values() for name in names}
    }
    of = [[said[m] for m in named.get(f"{q:g}", ())] for q in release.blend.quantiles]
    return np.stack([np.mean(each, axis=0) if each else point for each in of], axis=-1)


def _run_member(release: Release, name: str, x: np.ndarray) -> np.ndarray:
    """(n, H) of the member's graph, in the space in which members are combined."""
    return release.kind.link(release.members[name].run(["z_hat"], {"x": x})[0])


def _predict_member(release: Release, name: str, x: np.ndarray) -> np.ndarray:
    parts = [
        _run_member(release, name, x[part]).astype(np.float64) for part in split_blocks(len(x), BLOCK_ROWS)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, release.schema.horizon_steps))


def select_relevant_rows(release: Release, rows: pl.DataFrame, cutoffs: Sequence[datetime]) -> pl.DataFrame:
    """The rows that can matter: known by the last cutoff, and not far before what is looked back
    on.

    A generous bound, for speed alone.
    """
    earliest = min([release.seen_until, *cutoffs])
    if release.history.height:
        earliest = min(earliest, release.history.select(pl.col("cutoff").max()).item())
    steps = release.schema.lookback_steps + release.schema.horizon_steps + 2
    # Weekends and holidays: 2 days hold a session
    bound = earliest - 2 * steps * parse_step_length(release.about.every) - timedelta(days=30)
    sessions = release.calendar.sessions
    since = bound if sessions is None else max(bound, sessions[0])
    return rows.filter((pl.col("known_at") <= max(cutoffs)) & (pl.col("event_time") >= since))


def build_origin_grid(release: Release, rows: pl.DataFrame) -> OriginGrid:
    """The grid under *rows* (not empty), from the history's last origin on when that lies before
    them.
    """
    calendar, schema = release.calendar, release.schema
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    start = first
    if release.history.height:
        newest = release.history.select(
            pl.col("cutoff").max() - timedelta(seconds=release.about.publish_delay_s)
        ).to_series()
        start = min(start, newest.dt.offset_by(f"-{release.about.every}")[0])
    if calendar.sessions is not None:
        start = max(start, calendar.sessions[0])
    steps = calendar.grid(start, last)
    reach = release.features.last_within_steps
    steps = pl.concat([steps, calendar.list_next_steps(last, reach + 1 + schema.horizon_steps)])
    cutoff = steps.to_frame("event_time").select(calendar.nominal_known_at()).to_series()
    event_us = steps.to_physical().to_numpy()
    at = np.searchsorted(event_us, [convert_to_us(first), convert_to_us(last)])
    return OriginGrid(steps, event_us, cutoff.to_physical().to_numpy(), int(at[0]), int(at[1]) + reach)


def predict_members(
    release: Release,
    rows: pl.DataFrame,
    grid: OriginGrid,
    points: Sequence[OriginPoint],
    series_ids: tuple[str, ...],
) -> MemberForecasts:
    """The members' forecasts at *points*, each from the rows known at its time.

    Features are causal, so one table serves all points, except those at which a row that lies in
    their past was still unknown.
    """
    schema = release.schema
    x = _build_inputs(release, rows, grid, points, series_ids)
    for i in _find_surprised_points(grid, rows, points, schema.lookback_steps):
        known = rows.filter(
            pl.col("known_at") <= _EPOCH + timedelta(microseconds=points[i].at_us)
        )  # all vintages: what is said ahead is read as the origin's own cutoff knew it
        x[i] = _build_inputs(release, known, grid, [points[i]], series_ids)[0]
    there = np.isfinite(x[:, :, schema.index(schema.last)])
    out = np.full((*there.shape, schema.horizon_steps), np.nan)
    scale = np.full(there.shape, np.nan)
    said = None
    if find_recency(release.how):
        said = np.full((*out.shape, len(release.how.members)), np.nan)
        said[there] = np.stack(
            [_predict_member(release, name, x[there]) for name in release.how.members], axis=-1
        )
    out[there], scale[there] = (
        (predict_ensemble(release, x[there]) if said is None else 0.0),
        schema.get_scales(x[there]),
    )
    regime = (
        compute_regime(release.blend.regime, x, schema)
        if release.blend.regime
        else np.zeros(there.shape, dtype=np.int64)
    )
    bases = predict_quantile_bases(release, x[there], out[there])
    if bases is None:
        return MemberForecasts(series_ids, out, scale, regime, None, said)
    base = np.full((*out.shape, bases.shape[-1]), np.nan)
    base[there] = bases
    return MemberForecasts(series_ids, out, scale, regime, base, said)


def select_first_known(
    release: Release, rows: pl.DataFrame, grid: OriginGrid, series_ids: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """z (T, S) by its first vintage, NaN where there is none, and when it was known (T, S),
    NEVER where it is not: errors are learned once.
    """
    z = np.full((len(grid.event_us), len(series_ids)), np.nan)
    known_us = np.full(z.shape, NEVER)
    target = (
        add_target(rows, release.about)
        .select("series_id", "event_time", "known_at", z=release.kind.encode(release.about.target))
        .filter(pl.col("z").is_not_null())
    )
    earliest = target.sort("known_at").unique(
        subset=["series_id", "event_time"], keep="first", maintain_order=True
    )
    where = (
        grid.get_positions(earliest["event_time"]),
        find_series_positions(series_ids, earliest["series_id"].to_list()),
    )
    z[where], known_us[where] = earliest["z"].to_numpy(), earliest["known_at"].to_physical().to_numpy()
    return z, known_us


def find_series_positions(all_ids: Sequence[str], some_ids: Sequence[str]) -> np.ndarray:
    """Positions of *some_ids* in *all_ids*, which is sorted and holds them all."""
    return np.searchsorted(np.asarray(all_ids, dtype=str), np.asarray(some_ids, dtype=str))


def _build_inputs(
    release: Release,
    rows: pl.DataFrame,
    grid: OriginGrid,
    points: Sequence[OriginPoint],
    series_ids: tuple[str, ...],
) -> np.ndarray:
    """x (n, S, F) at *points* from one table over the newest vintage of *rows*; NaN where a
    series has no row.
    """
    positions = np.unique([point.pos for point in points])
    start, until = (
        grid.event_time[max(0, int(positions[0]) - release.schema.lookback_steps)],
        grid.event_time[int(positions[-1])],
    )
    end = (
        grid.event_time[int(positions[-1]) + release.schema.horizon_steps]
        if release.about.covariates.known_ahead
        else until
    )
    x = np.full((len(positions), len(series_ids), len(release.schema.columns)), np.nan, dtype=np.float32)
    part = rows.filter((pl.col("event_time") >= start) & (pl.col("event_time") <= end))
    if part.height:
        table = build_features(part, release.about, release.features, release.calendar, until)
        table = table.filter(pl.col("event_time").is_in(grid.event_time[positions].implode()))
        values = table.select(pl.col(release.schema.names).fill_null(float("nan"))).to_numpy()
        x[
            np.searchsorted(positions, grid.get_positions(table["event_time"])),
            find_series_positions(series_ids, table["series_id"].to_list()),
        ] = values
    return x[np.searchsorted(positions, [point.pos for point in points])]


def _find_surprised_points(
    grid: OriginGrid, rows: pl.DataFrame, points: Sequence[OriginPoint], lookback_steps: int
) -> list[int]:
    """Points in whose past lies a row that became known only later: a late one, or a correction."""
    pos = grid.get_positions(rows["event_time"])
    known = rows["known_at"].to_physical().to_numpy()
    late = known > grid.cutoff_us[pos]
    pos, known = pos[late], known[late]
    if not len(pos):
        return []
    return [
        i
        for i, p in enumerate(points)
        if ((known > p.at_us) & (pos <= p.pos) & (pos >= p.pos - lookback_steps)).any()
    ]
