"""What a model sees: each series laid on its calendar's grid, and causal features of the past at every step.

In: rows (SERIES), the dataset's `about`, the declared list. Out: the feature table (FEATURES), earlier vintages of its values (VINTAGES) and its schema.
Promised: no feature looks ahead (the stage's table shows each origin what was known at its cutoff), borrows from another series or fills a hole; a row's features depend on the `lookback_steps` steps
before it alone, so the service, which calls the same functions on a tail, gets the batch's numbers. Nothing here is fitted.
"""

from tasks.features.known import features_as_known
from tasks.features.params import FeatureParams, FeatureSpec
from tasks.features.table import build_features, derive_target, feature_schema, gap_ledger

__all__ = ["FeatureParams", "FeatureSpec", "build_features", "derive_target", "feature_schema", "features_as_known", "gap_ledger"]
