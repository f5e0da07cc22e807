"""The feed, bounded: land all that is there now, close windows, and hand the newest one to the chain. The endless landing is no flow (`tidemill feed`)."""

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.promotion import promotion
from flows.training import training
from tasks.feed.service import drained, hand_over, is_landing, watch


@flow(name="feed", persist_result=True, result_serializer="json")
def feed(train: bool = True, limit_s: float = 3600.0) -> dict[str, Any]:
    """Drain the current dataset's feed up to what is there now, unless a process lands it already; then hand the closed window to the chain.

    train: when the window is another than the chain has seen, train and promote. Returns {counts, window, changed}.
    """
    done = _drain()
    changed = hand_over(done["window"]) if done["window"] else False
    create_table_artifact(key="feed-table", table=watch(), description="Sources of the feed: what was read of each, and what is behind.")
    get_run_logger().info("Feed: %s; window %s", done["counts"], (done["window"] or {}).get("end", "none has closed yet"))
    if changed and train:
        training(reason=f"the feed's window to {done['window']['end']} has closed", limit_s=limit_s)
        promotion(limit_s=limit_s)
    return {**done, "changed": changed}


@task(name="drain", persist_result=True, result_serializer="json", cache_policy=NO_CACHE, retries=3, retry_delay_seconds=10)
def _drain() -> dict[str, Any]:
    if is_landing():
        get_run_logger().info("Another process lands this feed; nothing to drain here.")
        return {"counts": {}, "window": drained(None)}
    return {**_once()}


def _once() -> dict[str, Any]:
    from tasks.feed.service import run  # noqa: PLC0415  (polars, delta and Kafka: only where we drain ourselves)

    logger = get_run_logger()
    return run(stop=lambda: False, until_drained=True, say=lambda landed: logger.info("version %d: %s", landed.version, landed.counts))
