"""The drift of rows, as the monitor computes it."""

from small_release import small_about

from tasks.core.calendar import build_calendar
from tasks.monitor.drift_figures import DriftInput, compute_drift
from tasks.monitor.rows import compute_span, iterate_groups
from tasks.monitor.streams import build_streams, list_unwatched


def watch_drift(rows, seen_until, params, about=None, expected=()):
    """DriftFigures of *rows* (SERIES). expected: columns that the champion knows."""
    about = about or small_about()
    calendar, lazy = build_calendar(about), rows.lazy()
    span = compute_span(lazy, about, calendar)
    grid = calendar.grid(span.first, span.last)
    groups = (
        build_streams(part, about, span, grid, ids) for ids, part in iterate_groups(lazy, span, len(grid))
    )
    unwatched = list_unwatched(rows.schema, expected)
    return compute_drift(DriftInput(groups, seen_until), grid, about, calendar, params, unwatched)
