"""What is recorded by now: answers by their id, and the releases that recent ones are of."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from tasks.edges.audit import list_answering
from tasks.edges.served_store import convert_to_us, get_served_path, has_audit, open_for_reading
from tasks.edges.settings import read_settings


def list_recorded(dataset: str, prediction_ids: Sequence[str]) -> set[str]:
    """Those of *prediction_ids*, at most some thousands, that are recorded."""
    if not (path := get_served_path(dataset)).exists():
        return set()
    query = "SELECT prediction_id FROM audit WHERE prediction_id IN (SELECT value FROM json_each(?))"
    with open_for_reading(path) as connection:
        found = connection.execute(query, [json.dumps(prediction_ids)]) if has_audit(connection) else ()
        return {name for (name,) in found}


def list_answering_releases(dataset: str, now: datetime) -> set[str]:
    """Digests of the releases with an answer that is at most TIDEMILL_KEEP_ANSWERS_DAYS old.

    Raises ServedStoreError when the file cannot be read.
    """
    if not (path := get_served_path(dataset)).exists():
        return set()
    with open_for_reading(path) as connection:
        since = now - timedelta(days=read_settings().keep_answers_days)
        return list_answering(connection, convert_to_us(since))
