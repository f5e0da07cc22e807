"""What the registry has of the releases that are or were champion."""

from pathlib import Path

from deployments.forecaster import shapes
from deployments.forecaster.loaded import format_iso
from deployments.forecaster.problems import ProblemError
from tasks.core.reports.package import Provenance
from tasks.edges.artifacts import read_last_report
from tasks.edges.champions import ChampionRecord
from tasks.edges.registry import get_champion_folder, get_monitored_path, read_champion, read_journal
from tasks.release.manifest import read_manifest

CARD = "model_card.md"


def describe_release(dataset: str, version: str) -> shapes.ReleaseDetails:
    """The kept release *version*. Raises ProblemError 404 when there is none, or no more."""
    journal = read_journal(dataset)
    record = _find_record(journal, version)
    folder = _get_kept_folder(journal, record)
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
    journal = read_journal(dataset)
    record = _find_record(journal, version)
    return record, _get_kept_folder(journal, record)


def _get_kept_folder(journal: list[ChampionRecord], record: ChampionRecord) -> Path:
    if (folder := get_champion_folder(record)).is_dir():
        return folder
    kept = sorted({other.version for other in journal if get_champion_folder(other).is_dir()})
    raise ProblemError(
        404,
        "version",
        f"the bytes of {record.version} are deleted",
        f"The newest releases are kept (TIDEMILL_KEEP_RELEASES): {', '.join(kept)}.",
        "Take one of these; its promotion is in journal.jsonl of the registry.",
    )


def read_monitored(dataset: str, version: str) -> bytes:
    """The monitor's last report of *version*, JSON. Raises ProblemError 404 when there is none."""
    record = _find_record(read_journal(dataset), version)
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


def _find_record(journal: list[ChampionRecord], version: str) -> ChampionRecord:
    """The last promotion of *version*."""
    found = next((record for record in reversed(journal) if record.version == version), None)
    if found is None:
        known = sorted({record.version for record in journal})
        raise ProblemError(
            404,
            "version",
            f"no {version[:60]!r} in the registry",
            f"The registry has {', '.join(known[-20:]) or 'no release: the service uses one outside it'}.",
            "Take one of these." if known else "See /api/v1/models.",
        )
    return found


def _describe_record(record: ChampionRecord) -> shapes.ReleaseRecord:
    return {
        "version": record.version,
        "digest": record.digest,
        "name": record.model,
        "seen_until": format_iso(record.seen_until),
        "promoted_as_of": format_iso(record.promoted_as_of),
    }


def _read_card(folder: Path) -> str | None:
    return (folder / CARD).read_text() if (folder / CARD).exists() else None
