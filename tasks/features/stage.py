"""The stage in one screen: rows in; table, schema and gaps out."""

from typing import Any, NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, calendar_for
from tasks.core.errors import FeatureInputError
from tasks.core.schema import FeatureSchema
from tasks.features.grid import span
from tasks.features.known import features_as_known, superseded
from tasks.features.params import FeatureParams
from tasks.features.table import feature_schema, gap_ledger


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
    table = features_as_known(rows, about, params, calendar)
    return FeatureSet(table, superseded(rows, about), schema, gap_ledger(table), calendar)
