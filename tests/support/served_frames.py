"""Served forecasts written as a frame, one answer for each id, without rows of the audit."""

from tasks.core.frames import SERVED
from tasks.edges.served import StoredAnswer, build_stored_rows, write_answers
from tasks.edges.served_store import WAIT_S


def write_served(dataset, frame, *, own_history=False, as_of=None, wait_s=WAIT_S):
    """Record *frame* (SERVED) in one transaction."""
    parts = SERVED.check(frame).partition_by("prediction_id", "made_at", as_dict=True, maintain_order=True)
    answers = [
        StoredAnswer(
            dataset, prediction_id, made_at, build_stored_rows(part, own_history=own_history, as_of=as_of)
        )
        for (prediction_id, made_at), part in parts.items()
    ]
    write_answers(answers, wait_s=wait_s)
