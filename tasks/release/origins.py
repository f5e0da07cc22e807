"""From cutoffs to grid steps, and to the members' forecasts from what was known at each cutoff."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl

from tasks.core.calendar import parse_step_length
from tasks.core.errors import ReleaseError
from tasks.core.kinds.timeline import NEVER
from tasks.core.schema import Centres
from tasks.features import FeatureParams, add_target, build_features
from tasks.features.centres import find_centres
from tasks.release.combine import compute_regime, find_recency
from tasks.release.load import Release
from tasks.release.outputs import fill_bases, list_forecast_outputs, run_outputs

RowsT = TypeVar("RowsT", pl.DataFrame, pl.LazyFrame)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OriginPoint(NamedTuple):
    """A forecast to make.

    pos: grid position of its origin.
    as_of_us: microseconds since 1970; rows known by then are used.
    """

    pos: int
    as_of_us: int


@dataclass(frozen=True)
class OriginGrid:
    """T steps, the horizon of the last possible origin included.

    event_time: (T,).
    event_us, cutoff_us: (T,) microseconds since 1970, of the steps and of the cutoffs that they are
      origins of.
    first, last: positions of the first row and of the last origin that is still within reach of a
      row.
    """

    event_time: pl.Series
    event_us: np.ndarray
    cutoff_us: np.ndarray
    first: int
    last: int

    def find_origin(self, as_of_us: int) -> int:
        """Position of the last step nominally known at *as_of_us*; -1 before the first."""
        return int(np.searchsorted(self.cutoff_us, as_of_us, side="right")) - 1

    def get_positions(self, event_time: pl.Series) -> np.ndarray:
        """Position of each of *event_time*, which must be on the grid."""
        return np.searchsorted(self.event_us, event_time.to_physical().to_numpy())


@dataclass(frozen=True)
class MemberForecasts:
    """What the members forecast at n points for S series.

    z_hat: (n, S, H) combined, NaN for a series without a last value.
    scale, regime: (n, S).
    base: (n, S, H, Q) the members' own quantiles, None where intervals do not start from them.
    x, centre: (n, S, F) feature rows, and (S,) what was subtracted from their levels.
    member_z_hat, weights: (n, S, H, M) each of them alone and (n, M, S) their weights, where
      weights move; z_hat is then 0 until tasks.release.recent computes it and the weights.
    """

    series_ids: tuple[str, ...]
    z_hat: np.ndarray
    scale: np.ndarray
    regime: np.ndarray
    base: np.ndarray | None
    x: np.ndarray
    centre: np.ndarray
    member_z_hat: np.ndarray | None = None
    weights: np.ndarray | None = None


def convert_to_utc(time: datetime) -> datetime:
    """The same moment in UTC.

    Raises ReleaseError for a time without a zone, which could be any of 24 moments.
    """
    if time.tzinfo is None:
        raise ReleaseError(
            f"Cutoff {time} has no time zone. Give it one, for example"
            f" {time.replace(tzinfo=UTC).isoformat()}."
        )
    return time.astimezone(UTC)


def convert_to_us(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def select_relevant_rows(release: Release, rows: RowsT, cutoffs: Sequence[datetime]) -> RowsT:
    """The rows that can matter: known by the last cutoff, and not far before what features read.

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
    """The grid under *rows* (not empty), from the history's last origin on if that is earlier."""
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
    ends = np.searchsorted(event_us, [convert_to_us(first), convert_to_us(last)])
    return OriginGrid(steps, event_us, cutoff.to_physical().to_numpy(), int(ends[0]), int(ends[1]) + reach)


def predict_members(
    release: Release,
    rows: pl.DataFrame,
    grid: OriginGrid,
    points: Sequence[OriginPoint],
    series_ids: tuple[str, ...],
) -> MemberForecasts:
    """The members' forecasts at *points*, each from the rows known at its time.

    Features are causal, so one table serves all points, except those at which a row of their past
    was still unknown.
    """
    schema = release.schema
    centres = _find_centres(release, rows, series_ids)
    params = release.features.model_copy(update={"centres": centres})
    x = _build_inputs(release, params, rows, grid, points, series_ids)
    for i in _find_points_with_late_rows(grid, rows, points, schema.lookback_steps):
        known = rows.filter(
            pl.col("known_at") <= _EPOCH + timedelta(microseconds=points[i].as_of_us)
        )  # all vintages: what is known ahead is read as the origin's own cutoff knew it
        x[i] = _build_inputs(release, params, known, grid, [points[i]], series_ids)[0]
    is_known = np.isfinite(x[:, :, schema.index(schema.last)])
    out = np.full((*is_known.shape, schema.horizon_steps), np.nan)
    scale = np.full(is_known.shape, np.nan)
    found = run_outputs(release, x[is_known], list_forecast_outputs(release))
    bases = found.pop() if release.ensemble.quantile_members else None
    member_z_hat = None
    if find_recency(release.combination):
        member_z_hat = np.full((*out.shape, len(found)), np.nan)
        member_z_hat[is_known] = np.stack(found, axis=-1)
    out[is_known] = found[0] if member_z_hat is None else 0.0
    scale[is_known] = schema.get_scales(x[is_known])
    regime = (
        compute_regime(release.ensemble.regime, x, schema)
        if release.ensemble.regime
        else np.zeros(is_known.shape, dtype=np.int64)
    )
    centre_of = dict(params.centres)
    centre = np.array([centre_of.get(name, 0.0) for name in series_ids])
    base = None
    if bases is not None:
        base = np.full((*out.shape, bases.shape[-1]), np.nan)
        base[is_known] = fill_bases(release.ensemble, bases, out[is_known])
        base += centre[:, None, None]
    out += centre[:, None]
    if member_z_hat is not None:
        member_z_hat += centre[:, None, None]
    return MemberForecasts(series_ids, out, scale, regime, base, x, centre, member_z_hat)


def _find_centres(release: Release, rows: pl.DataFrame, series_ids: tuple[str, ...]) -> Centres:
    """The centres of the release, and those of the series of *rows* that it has not seen."""
    seen = {*release.series_ids, *dict(release.schema.centres)}
    if not (unseen := [name for name in series_ids if name not in seen]):
        return release.schema.centres
    shared = float(np.median(release.schema.get_centres(release.series_ids))) if release.series_ids else None
    further = find_centres(rows.filter(pl.col("series_id").is_in(unseen)), release.about, shared)
    return (*release.schema.centres, *further)


def select_first_known(
    release: Release, rows: pl.DataFrame, grid: OriginGrid, series_ids: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """z by its first vintage and when it was known: errors are learned once.

    Returns z (T, S), NaN where there is none, and times (T, S), NEVER where it is not known.
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
    params: FeatureParams,
    rows: pl.DataFrame,
    grid: OriginGrid,
    points: Sequence[OriginPoint],
    series_ids: tuple[str, ...],
) -> np.ndarray:
    """x (n, S, F) at *points* from one table over the newest vintage of *rows*.

    NaN where a series has no row.
    """
    positions = np.unique([point.pos for point in points])
    start, last = (
        grid.event_time[max(0, int(positions[0]) - release.schema.lookback_steps)],
        grid.event_time[int(positions[-1])],
    )
    end = (
        grid.event_time[int(positions[-1]) + release.schema.horizon_steps]
        if release.about.covariates.known_ahead
        else last
    )
    x = np.full((len(positions), len(series_ids), len(release.schema.columns)), np.nan, dtype=np.float32)
    part = rows.filter((pl.col("event_time") >= start) & (pl.col("event_time") <= end))
    if part.height:
        table = build_features(part, release.about, params, release.calendar, last)
        table = table.filter(pl.col("event_time").is_in(grid.event_time[positions].implode()))
        values = table.select(pl.col(release.schema.names).fill_null(float("nan"))).to_numpy()
        x[
            np.searchsorted(positions, grid.get_positions(table["event_time"])),
            find_series_positions(series_ids, table["series_id"].to_list()),
        ] = values
    return x[np.searchsorted(positions, [point.pos for point in points])]


def _find_points_with_late_rows(
    grid: OriginGrid, rows: pl.DataFrame, points: Sequence[OriginPoint], lookback_steps: int
) -> list[int]:
    """Points with a row in their past that became known only later: a late one, or a correction."""
    pos = grid.get_positions(rows["event_time"])
    known = rows["known_at"].to_physical().to_numpy()
    late = known > grid.cutoff_us[pos]
    pos, known = pos[late], known[late]
    if not len(pos):
        return []
    return [
        i
        for i, p in enumerate(points)
        if ((known > p.as_of_us) & (pos <= p.pos) & (pos >= p.pos - lookback_steps)).any()
    ]
