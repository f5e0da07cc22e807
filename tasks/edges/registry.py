"""The registry: which release of a dataset is champion.

Files in home, each changed by rename; MLflow is informed and never asked.
`registry/<dataset>/champion.json` names the champion, `journal.jsonl` next to it has every
promotion in order, `releases/<digest>/` has the bytes, `rows/<dataset>.parquet` what the service
looks back on. Light on imports, since the service reads it.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from tasks.core.errors import ReleaseError
from tasks.core.reports.promote import GateDecision
from tasks.core.strict import Strict
from tasks.edges.artifacts import write_json
from tasks.edges.chained_journal import append_line, read_lines
from tasks.edges.files import compute_file_hash, hold_lock, replace_file
from tasks.edges.release_files import (
    ReleaseIdentity,
    delete_old_releases,
    get_registry_folder,
    read_release_identity,
    write_release_copy,
)
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings
from tasks.edges.tracking import log_promotion


class Champion(Strict):
    """The release that answers.

    path: relative to home.
    promoted_as_of: newest `known_at` of the data that decided.
    """

    dataset: str
    digest: str
    path: str
    version: str
    model: str
    seen_until: datetime
    promoted_as_of: datetime


class ChampionRecord(Champion):
    """champion.json. decision: what promote wrote."""

    decision: GateDecision


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


def apply_promotion(dataset: str, release_folder: Path, decision: GateDecision) -> ChampionRecord:
    """Make the sealed release in *release_folder* the champion; a second call changes nothing.

    decision: with `as_of`.
    1. Copy the bytes. 2. Add the line of the journal. 3. Leave the entry in MLflow's outbox.
    4. Replace champion.json. 5. Delete old releases. A kill in between leaves the old champion
    whole, and the next call completes the work.
    Raises ReleaseError when the folder has no manifest, or is of another dataset.
    """
    release = read_release_identity(release_folder)
    if release.dataset != dataset:
        raise ReleaseError(
            f"{release_folder} is a release of {release.dataset!r}, not of {dataset!r}. Promote it in its"
            " own checkout."
        )
    with _wait_for_promotion_lock(dataset):
        now = read_champion(dataset)
        if now is not None and now.digest == release.digest:
            write_release_copy(dataset, release_folder, get_champion_folder(now))  # heals a damaged one
            return now
        journal = read_journal(dataset)
        champion = build_champion(release, decision, journal)
        # 1.
        write_release_copy(dataset, release_folder, get_champion_folder(champion))
        # 2.
        if not journal or journal[-1].digest != champion.digest:
            append_line(_get_journal_path(dataset), champion.model_dump(mode="json"))
        # 3.
        log_promotion(
            dataset,
            champion.digest,
            champion.version,
            get_champion_folder(champion).absolute(),
            {"tidemill.model": champion.model},
        )
        # 4.
        write_json(get_champion_path(dataset), champion.model_dump(mode="json"))
        # 5.
        promoted = [line.digest for line in read_journal(dataset)]
        delete_old_releases(dataset, promoted, None if now is None else now.digest)
    return champion


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


def build_champion(
    release: ReleaseIdentity, decision: GateDecision, journal: Sequence[ChampionRecord]
) -> ChampionRecord:
    """The record of *release* as champion. journal: the promotions before, oldest first."""
    return ChampionRecord(
        dataset=release.dataset,
        digest=release.digest,
        path=f"releases/{release.digest}",
        version=_decide_version(release.digest, journal),
        model=release.model,
        seen_until=release.seen_until,
        promoted_as_of=decision.as_of,
        decision=decision,
    )


def _decide_version(digest: str, journal: Sequence[ChampionRecord]) -> str:
    """1.0.0, 1.1.0, ...: a new digest gets the next minor number; a former one keeps its own."""
    versions = {champion.digest: champion.version for champion in journal}
    return versions.get(digest, f"1.{len(versions)}.0")


@contextmanager
def _wait_for_promotion_lock(dataset: str) -> Iterator[None]:
    """One promotion of a dataset at a time."""
    with hold_lock(get_registry_folder(dataset) / "lock"):
        yield


def _get_journal_path(dataset: str) -> Path:
    return get_registry_folder(dataset) / "journal.jsonl"
