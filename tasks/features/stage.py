"""The stage in one screen: rows in; table, schema and gaps out."""

from typing import Any, NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, calendar_for
from tasks.core.errors import FeatureInputError
from tasks.core.schema import FeatureSchema
from tasks.features.ahead import check_said_ahead
from tasks.features.columns import check_sources, declared_columns
from tasks.features.cross import check_named_series
from tasks.features.grid import span
from tasks.features.known import features_as_known, superseded
from tasks.features.params import FeatureParams
from tasks.features.table import check_static, derive_target, feature_schema, gap_ledger


class FeatureSet(NamedTuple):
    """What the stage leaves behind: the table (FEATURES), earlier vintages of its values (VINTAGES), its schema, the gaps of each series, and the calendar it was laid on."""

    table: pl.DataFrame
    vintages: pl.DataFrame
    schema: FeatureSchema
    gaps: dict[str, Any]
    calendar: Calendar


def featurize(rows: pl.DataFrame, about: About, params: FeatureParams) -> FeatureSet:
    """Features of all clean *rows* (SERIES with all vintages), as each origin could know them. Raises FeatureInputError when there are none."""
    if rows.is_empty():
        raise FeatureInputError("data/clean/rows.parquet has no rows, so there is nothing to compute features of. Look into data/quarantine.")
    calendar = calendar_for(about, reach=span(rows))
    schema = feature_schema(about, params)
    check_sources(declared_columns(about, params), [*rows.columns, "y", "z", about.target.column])
    check_named_series(params.list, rows)
    check_said_ahead(params.list, derive_target(rows, about), calendar)
    check_static(rows, about)
    table = features_as_known(rows, about, params, calendar)
    return FeatureSet(table, superseded(rows, about, calendar), schema, gap_ledger(table), calendar)
