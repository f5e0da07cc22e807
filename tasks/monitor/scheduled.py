"""The champion's own forecasts since its promotion: of every series, at every cutoff.

Each is as the champion would have forecast at that time. They are what the monitor judges. They do
not depend on the requests to the service.
"""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from tasks.core.calendar import Calendar
from tasks.core.frames import SERIES
from tasks.monitor.rows import RowsSpan
from tasks.release import Release, predict_cutoffs, select_relevant_rows

MAX_STEPS = 2_000_000  # forecast steps of one report: 300 MB; 250 cutoffs of 330 series with a day's hours


def select_cutoffs(
    span: RowsSpan, calendar: Calendar, since: datetime, max_cutoffs: int, end: datetime | None = None
) -> list[datetime]:
    """The newest cutoffs from *since* on, one per step like the gate's, at most *max_cutoffs*.

    The last cutoff is left out: no outcome of it can be known.
    span: of the rows.
    since: the newest `known_at` of the data that decided the promotion.
    end: only cutoffs before it.
    """
    grid = calendar.grid(span.first, span.last_row)
    cutoffs = pl.DataFrame({"event_time": grid}).select(calendar.nominal_known_at()).to_series()
    end = min(end or span.newest_known_at, span.newest_known_at)
    return cutoffs.filter((cutoffs >= since) & (cutoffs < end)).to_list()[-max_cutoffs:]


def build_forecasts(
    release: Release, digest: str, rows: pl.DataFrame | pl.LazyFrame, cutoffs: Sequence[datetime]
) -> pl.DataFrame:
    """FORECAST rows of *release* with its *digest*, each from the rows known by its cutoff."""
    relevant = select_relevant_rows(release, rows.lazy(), cutoffs).collect(engine="streaming")
    return predict_cutoffs(release, SERIES.conform(relevant), cutoffs).with_columns(digest=pl.lit(digest))


def count_max_cutoffs(release: Release, n_series: int) -> int:
    """How many cutoffs of *release* are judged at most, so that there are MAX_STEPS rows."""
    return max(1, MAX_STEPS // (n_series * release.schema.horizon_steps))
