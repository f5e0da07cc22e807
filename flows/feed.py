"""Land the records that the feed has now, close windows, and announce the newest.

Landing without an end is not a flow, but `tidemill feed`.
"""

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows._artifacts import build_artifact_key
from flows._events import WindowClosed, publish_event
from flows._stages import build_run_namer
from flows.promotion import promotion
from flows.training import training
from tasks.core.reports.feed import FeedStatus, LandedFeed
from tasks.edges.params import read_dataset


@flow(name="feed", flow_run_name=build_run_namer("feed"), persist_result=True, result_serializer="json")
def feed(train: bool = False, limit_s: float = 3600.0) -> dict[str, object]:
    """Land the records of now and pass the closed window to the chain.

    Emits `tidemill.window.closed` for a window that the chain has not seen; that starts a refresh.
    Lands nothing when another process lands the feed already.
    train: when the chain has not seen that window, train and promote, due or not.
    Returns a LandedFeed as plain data, and `changed`: whether the window is new to the chain.
    """
    # Imported here: Delta and polars are slow, and the deployment's pull needs neither
    from tasks.feed.service import publish_window, read_feed_status

    result = _catch_up()
    landed = LandedFeed.model_validate(result)
    changed = landed.window is not None and publish_window(landed.window)
    create_table_artifact(
        key=build_artifact_key("feed", "table"),
        table=_build_source_rows(read_feed_status()),
        description="The feed: what landed of each source, the lag, and which process lands.",
    )
    get_run_logger().info(
        "Feed: %s; window %s",
        landed.counts,
        landed.window.end.isoformat() if landed.window else "none has closed yet",
    )
    if landed.window is not None and changed:
        publish_event(
            WindowClosed(dataset=read_dataset(), as_of=landed.window.end, n_rows=landed.window.n_rows)
        )
        if train:
            training(
                reason=f"the feed's window to {landed.window.end.isoformat()} has closed", limit_s=limit_s
            )
            promotion(limit_s=limit_s)
    return {**result, "changed": changed}


@task(
    name="drain",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=10,
)
def _catch_up() -> dict[str, object]:
    """Land until caught up. Returns a LandedFeed as plain data, since Prefect stores JSON."""
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
    """A row for each source, and one for each disposition."""
    if feed_status.table is None:
        return []
    empty = {"lag": "", "member": "", "at": ""}
    reading = {
        source.source: {"lag": source.lag, "member": member.member, "at": member.at.isoformat()}
        for member in feed_status.members
        for source in member.sources
    }
    dispositions = [{"what": name, "records": n, **empty} for name, n in feed_status.table.rows.items()]
    return dispositions + [
        {"what": source, "records": offset, **reading.get(source, empty)}
        for source, offset in feed_status.table.marks.items()
    ]
