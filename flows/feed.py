"""The feed, bounded: land all that is there now, close windows, and hand the newest to the chain.

The endless landing is no flow (`tidemill feed`).
"""

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows._artifacts import build_artifact_key
from flows.promotion import promotion
from flows.training import training
from tasks.core.reports.feed import FeedStatus, LandedFeed


@flow(name="feed", persist_result=True, result_serializer="json")
def feed(train: bool = True, limit_s: float = 3600.0) -> dict[str, object]:
    """Land what is there now, unless a process lands the feed already, and hand the closed window
    to the chain.

    Returns a LandedFeed as plain data, and `changed`: whether the chain has not seen its window.
    train: when the chain has not seen that window, train and promote.
    """
    # Delta and polars: the deployment's pull need not pay for them
    from tasks.feed.service import publish_window, read_feed_status

    drained = _drain()
    landed = LandedFeed.model_validate(drained)
    changed = landed.window is not None and publish_window(landed.window)
    create_table_artifact(
        key=build_artifact_key("feed", "table"),
        table=_build_source_rows(read_feed_status()),
        description="The feed: what landed of each source, what is behind, who lands.",
    )
    get_run_logger().info(
        "Feed: %s; window %s",
        landed.counts,
        landed.window.end.isoformat() if landed.window else "none has closed yet",
    )
    if landed.window is not None and changed and train:
        reason = f"the feed's window to {landed.window.end.isoformat()} has closed"
        training(reason=reason, limit_s=limit_s)
        promotion(limit_s=limit_s)
    return {**drained, "changed": changed}


@task(
    name="drain",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=10,
)
def _drain() -> dict[str, object]:
    """A LandedFeed as plain data: Prefect keeps results as JSON that names no class."""
    from tasks.feed.service import run_feed

    logger = get_run_logger()
    landed = run_feed(
        stop=lambda: False,
        until_caught_up=True,
        report=lambda commit: logger.info("version %d: %s", commit.version, commit.counts),
    )
    plain: dict[str, object] = landed.model_dump(mode="json")
    return plain


def _build_source_rows(feed_status: FeedStatus) -> list[dict[str, object]]:
    """A row for each source, and one for each place."""
    if feed_status.table is None:
        return []
    nothing = {"lag": "", "member": "", "at": ""}
    reading = {
        source.source: {"lag": source.lag, "member": member.member, "at": member.at.isoformat()}
        for member in feed_status.members
        for source in member.sources
    }
    places = [{"what": place, "records": n, **nothing} for place, n in feed_status.table.rows.items()]
    return places + [
        {"what": source, "records": offset, **reading.get(source, nothing)}
        for source, offset in feed_status.table.marks.items()
    ]
