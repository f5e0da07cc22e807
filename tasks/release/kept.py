"""The releases that were champion: which are kept, how they differ, and one of them made champion.

An operator's rollback needs home alone: neither Prefect nor MLflow answers anything.
"""

from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from tasks.core.errors import ReleaseError, ReleaseNotKeptError
from tasks.core.versions import VersionPart, decide_version_part
from tasks.edges.champions import ChampionRecord, describe_differences, find_previous_champion
from tasks.edges.registry import (
    apply_kept_release,
    get_champion_folder,
    get_rows_path,
    read_champion,
    read_journal,
)
from tasks.edges.release_files import find_release_identity
from tasks.release.manifest import check_manifest
from tasks.release.warm_up import check_release_answers

MIN_DIGEST = 6  # characters of a digest that may stand for a release


class KnownRelease(NamedTuple):
    """A release that is or was champion. promoted_at, by, why: of the newest time that it was."""

    version: str
    digest: str
    model: str
    seen_until: datetime
    action: str
    promoted_at: datetime | None
    by: str | None
    why: str
    is_kept: bool
    is_champion: bool


class ReleaseDifference(NamedTuple):
    """How two releases differ, in words. part: of the version that rises with it."""

    before: str
    after: str
    part: VersionPart
    changes: list[str]


def list_releases(dataset: str) -> list[KnownRelease]:
    """The releases that are or were champion of *dataset*, the newest first."""
    champion = read_champion(dataset)
    newest = {line.digest: line for line in read_journal(dataset)}
    return [
        KnownRelease(
            line.version,
            line.digest,
            line.model,
            line.seen_until,
            line.action,
            line.promoted_at,
            line.by,
            line.why or line.decision.reason,
            is_kept=get_champion_folder(line).is_dir(),
            is_champion=champion is not None and champion.digest == line.digest,
        )
        for line in sorted(newest.values(), key=_get_version_parts, reverse=True)
    ]


def get_release_record(dataset: str, name: str) -> ChampionRecord:
    """The newest line of the journal of a release.

    name: its version, or the beginning of its digest.
    Raises ReleaseNotKeptError when there is none of that name.
    """
    for line in reversed(read_journal(dataset)):
        if line.version == name or (len(name) >= MIN_DIGEST and line.digest.startswith(name)):
            return line
    raise ReleaseNotKeptError(f"There is no release {name[:60]!r} of {dataset!r}.", _list_kept(dataset))


def get_kept_release(dataset: str, name: str) -> tuple[ChampionRecord, Path]:
    """A release that was champion, and its folder.

    Raises ReleaseNotKeptError when there is none of that name, or its bytes are deleted.
    """
    record = get_release_record(dataset, name)
    if not (folder := get_champion_folder(record)).is_dir():
        raise ReleaseNotKeptError(
            f"The bytes of {record.version} of {dataset!r} are deleted: the newest are kept"
            " (TIDEMILL_KEEP_RELEASES).",
            _list_kept(dataset),
        )
    return record, folder


def compare_versions(dataset: str, before: str, after: str) -> ReleaseDifference:
    """How the release *after* differs from *before*; both may be deleted."""
    records = [get_release_record(dataset, name) for name in (before, after)]
    old, new = (find_release_identity(dataset, record.digest) for record in records)
    if old is None or new is None:
        unknown = records[0 if old is None else 1].version
        raise ReleaseNotKeptError(f"The manifest of {unknown} was not kept.", _list_kept(dataset))
    return ReleaseDifference(
        records[0].version,
        records[1].version,
        decide_version_part(old.traits, new.traits),
        describe_differences(old, new),
    )


def apply_rollback(
    dataset: str, to: str | None, by: str, why: str, *, taken_back: str | None = None
) -> ChampionRecord:
    """Make an earlier release champion again, after it was verified and has answered.

    to: its version or digest; None: the champion before the current one.
    taken_back: version of the champion that is taken back; when it is not champion (any more),
      nothing changes.
    Raises ReleaseError when there is no such release, or it is not as it was sealed.
    """
    now = _get_champion(dataset)
    if taken_back is not None and now.digest != get_release_record(dataset, taken_back).digest:
        return now
    if to is None:
        if (previous := find_previous_champion(read_journal(dataset))) is None:
            raise ReleaseNotKeptError(
                f"{now.version} is the first champion of {dataset!r}, or all before it were taken back."
                " Name the release to go to.",
                _list_kept(dataset),
            )
        to = previous.digest
    return _apply_verified(dataset, to, "rollback", by, why)


def apply_deployment(dataset: str, version: str, by: str, why: str) -> ChampionRecord:
    """Make a kept release champion, for example one that was taken back; as `apply_rollback`."""
    _get_champion(dataset)
    return _apply_verified(dataset, version, "deploy", by, why)


def _apply_verified(
    dataset: str, name: str, action: Literal["rollback", "deploy"], by: str, why: str
) -> ChampionRecord:
    record, folder = get_kept_release(dataset, name)
    try:
        check_release_answers(folder)
        found = check_manifest(folder).digest
    except ReleaseError as error:
        kept = ", ".join(_list_kept(dataset))
        raise ReleaseError(f"{error} Until then take another one that is kept: {kept}.") from error
    if found != record.digest:
        raise ReleaseError(
            f"{folder} has digest {found[:12]}, but {record.version} is {record.digest[:12]}: it is another"
            f" release under this name. Take another one that is kept: {', '.join(_list_kept(dataset))}."
        )
    return apply_kept_release(dataset, record.digest, action, by, why, _find_newest_known_at(dataset))


def _get_champion(dataset: str) -> ChampionRecord:
    if (champion := read_champion(dataset)) is None:
        raise ReleaseError(f"{dataset!r} has no champion yet. `tidemill run` makes one.")
    return champion


def _list_kept(dataset: str) -> list[str]:
    return [release.version for release in list_releases(dataset) if release.is_kept]


def _find_newest_known_at(dataset: str) -> datetime | None:
    """Of the published rows; None without any."""
    path = get_rows_path(dataset)
    if not path.exists():
        return None
    newest: datetime | None = pl.scan_parquet(path).select(pl.col("known_at").max()).collect().item()
    return newest


def _get_version_parts(line: ChampionRecord) -> tuple[int, ...]:
    return tuple(map(int, line.version.split(".")))
