"""The feed, bounded: land all that is there now, close windows, and hand the newest to the chain.

The endless landing is no flow (`tidemill feed`).
"""

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows._artifacts import build_artifact_key
from flows.promotion import promotion
from flows.training import training


@flow(name="feed", persist_result=True, result_serializer="json")
def feed(train: bool = True, limit_s: float = 3600.0) -> dict[str, Any]:
    """Land what is there now, unless a process lands the feed already, and hand the closed window
    to the chain.

    Returns {counts, window, changed}.
    train: when the chain has not seen that window, train and promote.
    """
    # Delta and polars: the deployment's pull need not pay for them
    from tasks.feed.service import publish_window, read_feed_status

    done = _drain()
    window = done["window"]
    changed = publish_window(window) if window else False
    create_table_artifact(
        key=build_artifact_key("feed", "table"),
        table=_build_source_rows(read_feed_status()),
        description="The feed: what landed of each source, what is behind, who lands.",
    )
    get_run_logger().info(
        "Feed: %s; window %s", done["counts"], window["end"] if window else "none has closed yet"
    )
    if changed and train:
        training(reason=f"the feed's window to {window['end']} has closed", limit_s=limit_s)
        promotion(limit_s=limit_s)
    return {**done, "changed": changed}


@task(
    name="drain",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=10,
)
def _drain() -> dict[str, Any]:
    from tasks.feed.service import run_feed

    logger = get_run_logger()
    return run_feed(
        stop=lambda: False,
        until_caught_up=True,
        report=lambda landed: logger.info("version %d: %s", landed.version, landed.counts),
    )


def _build_source_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a source, and one a place."""
    members = {one["source"]: (member, one) for member in found["members"] for one in member["sources"]}
    rows = [
        {"what": place, "records": n, "lag": "", "member": "", "at": ""}
        for place, n in found["table"]["rows"].items()
    ]
    for source, mark in found["table"]["marks"].items():
        member, one = members.get(source, ({}, {}))
        rows.append(
            {
                "what": source,
                "records": mark,
                "lag": one.get("lag", ""),
                "member": member.get("member", ""),
                "at": member.get("at", ""),
            }
        )
    return rows
