"""The registry: which release of a dataset is champion.

Files in home, each changed by rename; MLflow is informed and never asked.
`registry/<dataset>/champion.json` names the champion, `journal.jsonl` next to it has every
promotion in order, `releases/<digest>/` has the bytes, `rows/<dataset>.parquet` what the service
looks back on. Light on imports, since the service reads it.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tasks.core.errors import ReleaseError
from tasks.core.reports.promote import GateDecision
from tasks.edges.artifacts import write_json, write_text
from tasks.edges.chained_journal import append_line, read_lines
from tasks.edges.champions import ChampionRecord, build_champion, describe_differences, render_changelog
from tasks.edges.files import compute_file_hash, hold_lock, replace_file
from tasks.edges.release_files import (
    delete_old_releases,
    find_release_identity,
    get_registry_folder,
    read_release_identity,
    write_release_copy,
)
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import get_operator, read_settings
from tasks.edges.signatures import find_signer, sign_release
from tasks.edges.tracking import log_promotion


def read_champion(dataset: str) -> ChampionRecord | None:
    """The champion of *dataset*, None before the first promotion.

    Raises ReleaseError when its record cannot be read or names another dataset.
    """
    path = get_champion_path(dataset)
    if not path.exists():
        return None
    try:
        champion = ChampionRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ReleaseError(
            f"{path} cannot be read: {error.errors()[0]['msg']}. Restore it from the last line of"
            " journal.jsonl next to it, or remove it and promote again."
        ) from error
    if champion.dataset != dataset:
        raise ReleaseError(
            f"{path} names a champion of {champion.dataset!r}, not of {dataset!r}. Restore it from"
            " journal.jsonl next to it."
        )
    return champion


def get_champion_path(dataset: str) -> Path:
    """Where the record of the champion of *dataset* is; a promotion replaces it by rename."""
    return get_registry_folder(dataset) / "champion.json"


def get_champion_folder(champion: ChampionRecord) -> Path:
    """Where the champion's release is."""
    return read_settings().home / champion.path


def get_monitored_path(dataset: str, digest: str) -> Path:
    """Where the monitor's last report of a champion is, for the service."""
    return get_registry_folder(dataset) / "monitoring" / f"{digest}.json"


def read_journal(dataset: str) -> list[ChampionRecord]:
    """Every promotion of *dataset*, oldest first.

    Raises JournalError when its past was changed.
    """
    return [ChampionRecord.model_validate(line) for line in read_lines(_get_journal_path(dataset))]


def apply_promotion(
    dataset: str,
    release_folder: Path,
    decision: GateDecision,
    *,
    by: str | None = None,
    approval: int | None = None,
    hashes: Mapping[str, str] | None = None,
) -> ChampionRecord:
    """Make the sealed release in *release_folder* the champion; a second call changes nothing.

    decision: with `as_of`.
    by: who does it; by default the operator of this process.
    approval: its line in the journal of approvals. hashes: of the files that were approved.
    1. Copy the bytes and sign them. 2. Add the line of the journal. 3. Leave the entry in MLflow's
    outbox. 4. Replace champion.json. 5. Delete old releases. A kill before the journal's line
    leaves the old champion whole; after it, the next change of the champion completes this first.
    Raises ReleaseError when the folder has no manifest, or is of another dataset.
    """
    release = read_release_identity(release_folder)
    if release.dataset != dataset:
        raise ReleaseError(
            f"{release_folder} is a release of {release.dataset!r}, not of {dataset!r}. Promote it in its"
            " own checkout."
        )
    with _wait_for_promotion_lock(dataset):
        now = _complete(dataset)
        if now is not None and now.digest == release.digest:
            folder = get_champion_folder(now)
            write_release_copy(dataset, release_folder, folder, sign_release)  # heals a damaged one
            return now
        former = None if now is None else find_release_identity(dataset, now.digest)
        champion = build_champion(release, decision, read_journal(dataset), former)
        folder = get_champion_folder(champion)
        write_release_copy(dataset, release_folder, folder, sign_release, hashes)
        facts = {
            "by": by or get_operator(),
            "why": decision.reason,
            "approval": approval,
            "signed_by": find_signer(folder),
        }
        return _write_champion(champion.model_copy(update=facts), now)


def apply_kept_release(
    dataset: str,
    digest: str,
    action: Literal["rollback", "deploy"],
    by: str,
    why: str,
    as_of: datetime | None = None,
) -> ChampionRecord:
    """Make a release that was champion and is kept the champion; a second call changes nothing.

    The caller has verified its bytes; one of before there were signatures is signed now.
    as_of: newest `known_at` of the rows now.
    Raises ReleaseError when it was never champion, or is deleted.
    """
    with _wait_for_promotion_lock(dataset):
        now = _complete(dataset)
        record = next((line for line in reversed(read_journal(dataset)) if line.digest == digest), None)
        if now is None or record is None or not get_champion_folder(record).is_dir():
            raise ReleaseError(
                f"{digest[:12]} is no kept release of {dataset!r}. `tidemill releases` lists them."
            )
        if now.digest == digest:
            return now
        folder = get_champion_folder(record)
        before, after = (find_release_identity(dataset, name) for name in (now.digest, digest))
        facts = {
            "action": action,
            "by": by,
            "why": why,
            "changes": tuple(describe_differences(before, after)),
            "taken_back_as_of": as_of if action == "rollback" else None,
            "approval": None,
            "signed_by": find_signer(folder) or sign_release(folder),
        }
        return _write_champion(record.model_copy(update=facts), now)


def complete_last_change(dataset: str) -> ChampionRecord | None:
    """The champion, after the last line of the journal has taken effect; a kill may have cut it."""
    with _wait_for_promotion_lock(dataset):
        return _complete(dataset)


def _complete(dataset: str) -> ChampionRecord | None:
    now, journal = read_champion(dataset), read_journal(dataset)
    if not journal or (now is not None and now.digest == journal[-1].digest):
        return now
    return _apply_line(journal[-1], now)


def _write_champion(champion: ChampionRecord, former: ChampionRecord | None) -> ChampionRecord:
    """Add the line of the journal, and have it take effect. former: the champion until now."""
    facts = {"promoted_at": datetime.now(UTC), "replaces": None if former is None else former.digest}
    line = champion.model_copy(update=facts)
    append_line(_get_journal_path(line.dataset), line.model_dump(mode="json"))
    return _apply_line(line, former)


def _apply_line(line: ChampionRecord, former: ChampionRecord | None) -> ChampionRecord:
    log_promotion(
        line.dataset,
        line.digest,
        line.version,
        get_champion_folder(line).absolute(),
        {"tidemill.model": line.model},
    )
    write_json(get_champion_path(line.dataset), line.model_dump(mode="json"))
    journal = read_journal(line.dataset)
    write_text(get_changelog_path(line.dataset), render_changelog(line.dataset, journal))
    promoted = [each.digest for each in journal]
    delete_old_releases(line.dataset, promoted, None if former is None else former.digest)
    return line


def get_changelog_path(dataset: str) -> Path:
    """Where the changelog of the model of *dataset* is, made again at each change of champion."""
    return get_registry_folder(dataset) / "CHANGELOG.md"


def publish_rows_file(dataset: str, path: Path) -> None:
    """Copy a parquet file of SERIES rows to where the service reads them, by rename.

    Nothing when its bytes are there already.
    """
    target = get_rows_path(dataset)
    if not path.exists():
        raise ReleaseError(f"{path} is not there. `dvc repro validate` writes the clean rows.")
    if target.exists() and compute_file_hash(target) == compute_file_hash(path):
        return
    replace_file(target, lambda part: shutil.copyfile(path, part))


def get_rows_path(dataset: str) -> Path:
    """Where the published rows of *dataset* are."""
    return read_settings().home / "rows" / f"{encode_name(dataset)}.parquet"


@contextmanager
def _wait_for_promotion_lock(dataset: str) -> Iterator[None]:
    """One promotion of a dataset at a time."""
    with hold_lock(get_registry_folder(dataset) / "lock"):
        yield


def _get_journal_path(dataset: str) -> Path:
    return get_registry_folder(dataset) / "journal.jsonl"
