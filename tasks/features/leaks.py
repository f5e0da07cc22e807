"""The leak gate: no feature may know what could not be known at its cutoff.

A finding blocks train and promote. Rules: `look_ahead`, `known_at`, `lookback`, `not_repeatable`
(recomputed from truncated history), `target_in_features`, `leading`, `shuffled_target`, `too_good`;
docs/how-to/leak-gate.md describes what each finds and what none can find. Train and validation rows
are separated by `tasks.core.panel`, and train checks this (`tasks.train.overlap`).
"""

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.leaks import LeakVerdict
from tasks.features.centres import with_centres
from tasks.features.leaks_leading import find_leading
from tasks.features.leaks_recomputed import find_look_ahead, find_unclosed_bars
from tasks.features.leaks_scores import (
    find_determined,
    find_shuffled_forecasts,
    find_too_good,
    list_possible_leads,
)
from tasks.features.params import FeatureParams
from tasks.features.table import build_feature_schema


def find_leaks(
    rows: pl.DataFrame,
    about: About,
    params: FeatureParams,
    table: pl.DataFrame,
    calendar: Calendar,
    *,
    table_hash: str = "",
    data_version: str = "",
) -> LeakVerdict:
    """The verdict on *table* (FEATURES), computed from *rows* (SERIES with all vintages).

    The same input gives the same verdict.
    params: the centres are those of *rows*, with which the table was built.
    table_hash, data_version: of the files, for readers of the verdict.
    """
    params = with_centres(params, rows, about)
    look_ahead, n_cutoffs, n_values = find_look_ahead(rows, about, params, table, calendar)
    unclosed = find_unclosed_bars(rows, about, calendar)
    determined, determined_figures = find_determined(table, about, params)
    named = {finding.feature for finding in determined}
    leading, agreements = find_leading(
        table, about, [name for name in list_possible_leads(about, params) if name not in named]
    )
    shuffled, shuffled_figures = find_shuffled_forecasts(rows, about, params, calendar)
    too_good, too_good_figures = find_too_good(table, about, params)
    return LeakVerdict(
        schema_hash=build_feature_schema(about, params).hash,
        table=table_hash,
        data_version=data_version,
        checks={
            "recomputed": {"n_cutoffs": n_cutoffs, "n_values": n_values},
            "target_in_features": determined_figures,
            "shuffled_target": shuffled_figures,
            "too_good": too_good_figures,
        },
        findings=(*look_ahead, *unclosed, *determined, *leading, *shuffled, *too_good),
        leading=tuple(agreements),
    )
