"""The champion's own forecasts since its promotion: of every series, at every cutoff.

Each is as the champion would have forecast at that time. They are what the monitor judges. They do
not depend on the requests to the service.
"""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from tasks.core.calendar import Calendar
from tasks.core.frames import get_newest_known_at
from tasks.release import Release, predict_cutoffs

MAX_STEPS = 2_000_000  # forecast steps of one report: 300 MB; 250 cutoffs of 330 series with a day's hours


def select_cutoffs(
    rows: pl.DataFrame, calendar: Calendar, since: datetime, max_cutoffs: int, end: datetime | None = None
) -> list[datetime]:
    """The newest cutoffs from *since* on, one per step like the gate's, at most *max_cutoffs*.

    The last cutoff is left out: no outcome of it can be known.
    rows: SERIES, all vintages.
    since: the newest `known_at` of the data that decided the promotion.
    end: only cutoffs before it.
    """
    times = rows["event_time"].unique().sort()
    grid = calendar.grid(times[0], times[-1])
    cutoffs = pl.DataFrame({"event_time": grid}).select(calendar.nominal_known_at()).to_series()
    end = min(end or get_newest_known_at(rows), get_newest_known_at(rows))
    return cutoffs.filter((cutoffs >= since) & (cutoffs < end)).to_list()[-max_cutoffs:]


def build_forecasts(
    release: Release, digest: str, rows: pl.DataFrame, cutoffs: Sequence[datetime]
) -> pl.DataFrame:
    """FORECAST rows of *release* with its *digest*, each from the rows known by its cutoff.

    With many series, only for the newest of *cutoffs*: at most MAX_STEPS rows in total.
    """
    newest_cutoffs = list(cutoffs)[-count_max_cutoffs(release, rows) :]
    return predict_cutoffs(release, rows, newest_cutoffs).with_columns(digest=pl.lit(digest))


def count_max_cutoffs(release: Release, rows: pl.DataFrame) -> int:
    """How many cutoffs of *release* are judged at most, so that there are MAX_STEPS rows."""
    return max(1, MAX_STEPS // (rows["series_id"].n_unique() * release.schema.horizon_steps))
