"""What a model sees: each series laid on its calendar's grid, and causal features of the past at
every step.

In: rows (SERIES), the dataset's `about`, the declared list. Out: the feature table (FEATURES),
earlier vintages of its values (VINTAGES) and its schema. Promised: no feature looks ahead (the
stage's table shows each origin what was known at its cutoff), fills a hole or, but for `cross`,
borrows from another series; a row's features depend on the `lookback_steps` steps before it alone
(`ahead`: on what was said by then of the horizon), so the service, which calls the same functions
on a tail, gets the batch's numbers. Nothing here is fitted.
"""

from tasks.features.as_known import build_features_as_known
from tasks.features.params import FeatureParams
from tasks.features.specs import FeatureSpec
from tasks.features.table import (
    add_target,
    build_feature_schema,
    build_features,
    build_gap_ledger,
    find_newest_step,
    list_column_names,
)

__all__ = [
    "FeatureParams",
    "FeatureSpec",
    "add_target",
    "build_feature_schema",
    "build_features",
    "build_features_as_known",
    "build_gap_ledger",
    "find_newest_step",
    "list_column_names",
]
