"""The feature table and its schema: what the batch stage and the service both call."""

from datetime import datetime
from typing import Any

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.schema import FeatureSchema
from tasks.features.params import FeatureParams


def build_features(rows: pl.DataFrame, about: About, params: FeatureParams, calendar: Calendar, until: datetime | None = None) -> pl.DataFrame:
    """Features at every grid step of every series (schema FEATURES), from the latest vintage of each row given.

    rows: SERIES, in any order; cut with `as_of` before, to see what was known at a time. until: lay every series up to this step, also
    one that stopped earlier (its missing steps are gaps); None: each ends with its last row. Features are computed in float64, kept in float32.
    Raises CalendarError for a row off the grid, FeatureInputError for a feature whose column is not there.
    """
    raise NotImplementedError


def feature_schema(about: About, params: FeatureParams) -> FeatureSchema:
    """The columns of the table in order, the part each plays, and how far each looks back. Raises FeatureInputError for a `scale` that is no std column."""
    raise NotImplementedError


def derive_target(rows: pl.DataFrame, about: About) -> pl.DataFrame:
    """*rows* with the target as float64 column `y`: received, or computed from other columns. Raises FeatureInputError naming what is missing."""
    raise NotImplementedError


def gap_ledger(table: pl.DataFrame) -> dict[str, Any]:
    """Of each series: steps, gap steps, and the longest run of gaps with its first and last step."""
    raise NotImplementedError
