"""What the registry has of the releases that are or were champion."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.forecaster import shapes
from deployments.forecaster.loaded import format_iso
from deployments.forecaster.problems import ProblemError
from tasks.core.errors import ReleaseNotKeptError
from tasks.core.reports.package import CARD_NAME, Provenance
from tasks.edges.artifacts import read_last_report
from tasks.edges.champions import ChampionRecord
from tasks.edges.registry import get_monitored_path, read_champion, read_journal
from tasks.release.kept import get_kept_release, get_release_record
from tasks.release.manifest import read_manifest


def describe_release(dataset: str, version: str) -> shapes.ReleaseDetails:
    """The kept release *version*. Raises ProblemError 404 when there is none, or no more."""
    journal = read_journal(dataset)
    record, folder = find_kept_release(dataset, version)
    champion, provenance = read_champion(dataset), read_last_report(folder / "provenance.json", Provenance)
    metrics = None if provenance is None else provenance.metrics
    before = reversed(journal[: journal.index(record)])
    return {
        "release": _describe_record(record),
        "is_champion": champion is not None and champion.digest == record.digest,
        "data_version": read_manifest(folder).data_version,
        "metrics": {} if metrics is None else metrics.model_dump(),
        "provenance": None if provenance is None else provenance.model_dump(mode="json"),
        "card": _read_card(folder),
        "decision": record.decision.model_dump(mode="json"),
        "lineage": [_describe_record(former) for former in before],
    }


def find_kept_release(dataset: str, version: str) -> tuple[ChampionRecord, Path]:
    """The kept release *version* and its folder. Raises ProblemError 404 when there is none."""
    with convert_unknown_release():
        return get_kept_release(dataset, version)


def read_monitored(dataset: str, version: str) -> bytes:
    """The monitor's last report of *version*, JSON. Raises ProblemError 404 when there is none."""
    with convert_unknown_release():
        record = get_release_record(dataset, version)
    try:
        return get_monitored_path(dataset, record.digest).read_bytes()
    except FileNotFoundError as error:
        raise ProblemError(
            404,
            "monitoring",
            f"no report of {version}",
            "The monitor reports on a release while it is champion.",
            "`tidemill refresh` with new rows runs the monitor.",
        ) from error


@contextmanager
def convert_unknown_release() -> Iterator[None]:
    """Raise ProblemError 404 for a release that there is not, or that is not kept."""
    try:
        yield
    except ReleaseNotKeptError as error:
        rule = f"Kept are {', '.join(error.kept) or 'none: the service uses one outside the registry'}."
        raise ProblemError(404, "version", error.fact, rule, "Take one of these.") from error


def _describe_record(record: ChampionRecord) -> shapes.ReleaseRecord:
    return {
        "version": record.version,
        "digest": record.digest,
        "name": record.model,
        "seen_until": format_iso(record.seen_until),
        "promoted_as_of": format_iso(record.promoted_as_of),
    }


def _read_card(folder: Path) -> str | None:
    path = folder / CARD_NAME
    return path.read_text() if path.exists() else None
