"""What a model sees: each series on its calendar's grid, and causal features at every step.

Inputs: rows (SERIES), the dataset's `about`, the declared list. Outputs: the feature table
(FEATURES), earlier vintages of its values (VINTAGES) and its schema.

Promise: no feature looks ahead (in the stage's table each origin has what was known at its cutoff),
fills a gap or, except `cross`, reads another series. A row's features depend only on the
`lookback_steps` steps before it (`ahead`: on what was known ahead at its cutoff), so the service,
which calls the same functions on a tail, gets the numbers of the batch. Nothing here is fitted.
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
