"""The stage in one screen: from rows to the table, its vintages, its schema and the gaps."""

from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, build_calendar
from tasks.core.errors import FeatureInputError
from tasks.core.reports.features import GapLedger
from tasks.core.schema import FeatureSchema
from tasks.features.as_known import build_features_as_known, select_superseded
from tasks.features.centres import with_centres
from tasks.features.columns import build_declared_columns, check_sources
from tasks.features.cross import check_named_series
from tasks.features.grid import get_time_span
from tasks.features.known_ahead import check_known_ahead
from tasks.features.params import FeatureParams
from tasks.features.table import add_target, build_feature_schema, build_gap_ledger, check_static


class FeatureSet(NamedTuple):
    """The result of the stage.

    table: FEATURES.
    vintages: VINTAGES, earlier ones of the table's values.
    calendar: of the table's grid.
    params: as declared, with the centres of the series.
    """

    table: pl.DataFrame
    vintages: pl.DataFrame
    schema: FeatureSchema
    gaps: GapLedger
    calendar: Calendar
    params: FeatureParams


def build_feature_set(rows: pl.DataFrame, about: About, params: FeatureParams) -> FeatureSet:
    """Features of all clean *rows* (SERIES with all vintages), as known at each origin's cutoff.

    Raises FeatureInputError when there is no row.
    """
    if rows.is_empty():
        raise FeatureInputError(
            "data/clean/rows.parquet has no rows, so no features can be computed. See data/quarantine."
        )
    calendar = build_calendar(about, reach=get_time_span(rows))
    build_feature_schema(about, params)  # raises early for what it cannot be
    check_sources(
        build_declared_columns(about, params), [*rows.columns, "y", "z", about.target.column], about
    )
    check_named_series(params.list, rows)
    check_known_ahead(params.list, add_target(rows, about), calendar)
    check_static(rows, about)
    params = with_centres(params, rows, about)
    table = build_features_as_known(rows, about, params, calendar)
    schema, vintages = build_feature_schema(about, params), select_superseded(rows, about, calendar)
    return FeatureSet(table, vintages, schema, build_gap_ledger(table), calendar, params)
