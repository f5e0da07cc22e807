"""A batch: many requests for one series each, answered and recorded as one.

Each item gets what a request of its own would get. Pure, as response.py.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial

import polars as pl

from deployments.forecaster.explanation import build_explanations
from deployments.forecaster.forecast_facts import ForecastFacts, list_warnings
from deployments.forecaster.forecast_problems import (
    build_absent_error,
    build_early_error,
    build_failed_error,
    build_unknown_series_error,
)
from deployments.forecaster.loaded import LoadedRelease, ReadySeries
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import BatchItem, parse_batch
from deployments.forecaster.response import (
    NO_RULES,
    build_head,
    build_prediction_id,
    find_ready,
    make_ready,
    narrow_ready,
    select_parts,
)
from tasks.core.errors import TidemillError
from tasks.core.service_rules import ServiceRules
from tasks.edges.served import StoredAnswer
from tasks.release import find_absence_reasons

MAX_EXPLAINED = 100  # items of a batch: some seconds of the worker
N_SUGGESTED = 10  # unknown series of a batch for which similar names are looked up

AddEntry = Callable[[LoadedRelease, BatchItem, StoredAnswer, str], StoredAnswer]
Forecasts = Mapping[str, ReadySeries | ProblemError]  # by series


@dataclass(frozen=True)
class BatchResponse:
    """content: what the caller gets. stored: the record, which is written first.

    n_news, n_what_if: items from the newest rows, and as of a time or of a version.
    digest: of the release that answered.
    """

    content: bytes
    stored: Sequence[StoredAnswer]
    n_news: int
    n_what_if: int
    digest: str


def build_batch_response(
    loaded: LoadedRelease,
    body: bytes,
    made_at: datetime,
    rules: ServiceRules = NO_RULES,
    add_entry: AddEntry = lambda _loaded, _item, answer, _content: answer,
    find_version: Callable[[LoadedRelease, str], LoadedRelease] = lambda loaded, _model: loaded,
) -> BatchResponse:
    """Answer the items of *body*.

    add_entry: gives the record of an item its row of the audit.
    find_version: the release that the batch names.
    Raises ProblemError when the body as a whole is not valid.
    """
    items, model = parse_batch(body)
    loaded = find_version(loaded, model)
    forecasts = _forecast_items(loaded, [item for item in items if isinstance(item, BatchItem)])
    contents, stored, n_news, n_explained = [], [], 0, 0
    describe = lru_cache(partial(_render_warnings, loaded, rules, made_at))
    for item in items:
        try:
            if isinstance(item, ProblemError):
                raise item
            answer_id = build_prediction_id(made_at)
            ready = _forecast_item(loaded, item, forecasts[item.as_of_time])
            warnings = describe(ready.cutoff, ready.newest, item.as_of_time, is_complete=ready.is_complete)
            n_explained += item.explain
            explanation = _render_explanation(loaded, item, n_explained) if item.explain else ""
        except ProblemError as error:
            series_id = item.series_id if isinstance(item, BatchItem) else None
            contents.append(json.dumps({**error.body, "series_id": series_id}))
            continue
        content = (
            f'{{"status": 200, "prediction_id": "{answer_id}", "series": {ready.content}, "warnings":'
            f" {warnings}{explanation}}}"
        )
        contents.append(content)
        answer = StoredAnswer(loaded.manifest.dataset, answer_id, made_at, ready.rows)
        stored.append(add_entry(loaded, item, answer, content))
        n_news += item.as_of is None and loaded.is_in_use
    head = json.dumps({**build_head(loaded, made_at), "n_failed": len(items) - len(stored)})
    whole = f'{head[:-1]}, "items": [{", ".join(contents)}]}}'.encode()
    stored.sort(key=lambda answer: answer.prediction_id)  # the order of the store
    return BatchResponse(whole, stored, n_news, len(stored) - n_news, loaded.manifest.digest)


def _forecast_item(loaded: LoadedRelease, item: BatchItem, forecasts: Forecasts) -> ReadySeries:
    """What is sent of the forecast of *item*."""
    selection, found = select_parts(loaded, item), forecasts[item.series_id]
    if isinstance(found, ProblemError):
        raise found
    return found if selection is None else narrow_ready(found, selection)


def _render_explanation(loaded: LoadedRelease, item: BatchItem, number: int) -> str:
    """The last key of an item's answer. Raises ProblemError 422 when it is too much work."""
    if number > MAX_EXPLAINED:
        rule = f"Of a batch {MAX_EXPLAINED} items are explained."
        raise ProblemError(422, "explain", f"item {number:,} to explain", rule, "Send several batches.")
    (explanation,) = build_explanations(loaded, item, item.as_of_time or loaded.newest_known, None)
    return f', "explanation": {json.dumps(explanation, allow_nan=False)}'


def _render_warnings(
    loaded: LoadedRelease,
    rules: ServiceRules,
    made_at: datetime,
    cutoff: datetime,
    newest: datetime,
    as_of: datetime | None,
    *,
    is_complete: bool,
) -> str:
    facts = ForecastFacts(cutoff, newest, as_of, made_at, is_complete, rules=rules)
    return json.dumps(list_warnings(loaded, facts))


def _forecast_items(loaded: LoadedRelease, items: Sequence[BatchItem]) -> dict[datetime | None, Forecasts]:
    """By requested time, the forecast or the error of each series."""
    series_at: dict[datetime | None, set[str]] = {}
    for item in items:
        series_at.setdefault(item.as_of_time, set()).add(item.series_id)
    unknown = sorted(set().union(*series_at.values()) - loaded.newest_by_series.keys())
    problems: dict[str, ReadySeries | ProblemError] = {
        s: build_unknown_series_error([s], loaded.series, suggests=i < N_SUGGESTED)
        for i, s in enumerate(unknown)
    }
    return {
        as_of: {**problems, **_forecast_known(loaded, sorted(series - problems.keys()), as_of)}
        for as_of, series in series_at.items()
    }


def _forecast_known(loaded: LoadedRelease, series: Sequence[str], as_of: datetime | None) -> Forecasts:
    early: dict[str, ProblemError] = {}
    if as_of is not None:
        first = loaded.rows.group_by("series_id").agg(pl.col("known_at").min()).iter_rows()
        begins = {s: begin for s, begin in first if as_of < begin}
        early = {s: build_early_error(as_of, begins[s]) for s in series if s in begins}
        series = [s for s in series if s not in begins]
    try:
        ready = find_ready(loaded, series) if as_of is None else make_ready(loaded, series, as_of)
    except TidemillError as error:
        failed = build_failed_error(error, "service" if as_of is None else "as_of")
        return {**early, **dict.fromkeys(series, failed)}
    cutoff, absent = as_of or loaded.newest_known, [s for s in series if s not in ready]
    rows = loaded.rows.filter(pl.col("series_id").is_in(absent))
    reasons = find_absence_reasons(loaded.release, rows, cutoff) if absent else {}
    problems = {s: build_absent_error(cutoff, {s: reasons[s]} if s in reasons else {}) for s in absent}
    return {**early, **ready, **problems}
