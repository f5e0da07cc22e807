"""The registry: which release of a dataset is champion.

Files in home, each changed by rename; MLflow is informed and never asked.
`registry/<dataset>/champion.json` names the champion, `journal.jsonl` next to it has every
promotion in order, `releases/<digest>/` has the bytes, `rows/<dataset>.parquet` what the service
looks back on. Light on imports, since the service reads it.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tasks.core.errors import ReleaseError
from tasks.core.reports.promote import GateDecision
from tasks.core.strict import Strict
from tasks.edges.artifacts import write_folder, write_json
from tasks.edges.chained_journal import append_line, read_lines
from tasks.edges.files import compute_file_hash, hold_lock, replace_file
from tasks.edges.jobs import list_pinned_releases
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import ROOT, read_settings
from tasks.edges.tracking import log_promotion

MANIFEST = "manifest.json"


class ReleaseIdentity(BaseModel):
    """What the registry needs of a release's manifest; its other keys are the release's."""

    digest: str
    dataset: str
    model: str
    seen_until: datetime
    files: dict[str, str] = {}  # sha256 by path


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
    return _get_dataset_folder(dataset) / "champion.json"


def get_champion_folder(champion: ChampionRecord) -> Path:
    """Where the champion's release is."""
    return read_settings().home / champion.path


def get_monitored_path(dataset: str, digest: str) -> Path:
    """Where the monitor's last report of a champion is, for the service."""
    return _get_dataset_folder(dataset) / "monitoring" / f"{digest}.json"


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
        _delete_old_releases(dataset, now)
    return champion


def get_release_folder(digest: str) -> Path:
    """Where a promoted release is, until it is deleted."""
    return read_settings().home / "releases" / digest


def find_release_deletion(dataset: str, digest: str) -> datetime | None:
    """Since when a release that was promoted is not kept any more; None when it is, or unknown."""
    path = _get_deletion_path(dataset, digest)
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.exists() else None


def _get_deletion_path(dataset: str, digest: str) -> Path:
    return _get_dataset_folder(dataset) / "deleted" / digest


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


def write_release_copy(dataset: str, source: Path, target: Path) -> None:
    """Copy a release without the releases nested in it.

    The baseline is a release of its own in models/release. The release inside the Bento is a part.
    """
    _get_deletion_path(dataset, target.name).unlink(missing_ok=True)
    if _is_whole(target):  # a service may run in it, so it stays as it is
        return

    def find_nested(folder: str, names: list[str]) -> set[str]:
        is_top = Path(folder) == source
        return {name for name in names if is_top and (Path(folder) / name / MANIFEST).exists()}

    with write_folder(target) as fresh:
        shutil.copytree(source, fresh, dirs_exist_ok=True, ignore=find_nested)


def _is_whole(folder: Path) -> bool:
    """Whether the release in *folder* has the bytes that were sealed."""
    try:
        files = read_release_identity(folder).files
    except (ReleaseError, ValueError):
        return False
    paths = {folder / name: sealed for name, sealed in files.items()}
    return all(path.exists() and compute_file_hash(path) == sealed for path, sealed in paths.items())


def _delete_old_releases(dataset: str, former: ChampionRecord | None) -> None:
    """Delete releases of this dataset beyond the newest `keep_releases`.

    former: the champion until now. It, its successor and what is in use always stay.
    """
    newest_first = list(dict.fromkeys(champion.digest for champion in reversed(read_journal(dataset))))
    kept = set(newest_first[: max(read_settings().keep_releases, 2)]) | ({former.digest} if former else set())
    delete_releases(dataset, [digest for digest in newest_first if digest not in kept])


def delete_releases(dataset: str, digests: Sequence[str]) -> None:
    """Delete those releases of *dataset* that nothing uses."""
    folders = [get_release_folder(digest) for digest in digests]
    in_use = _read_references() if (old := [folder for folder in folders if folder.exists()]) else set()
    for folder in old:
        if folder.name not in in_use:
            deletion = _get_deletion_path(dataset, folder.name)
            deletion.parent.mkdir(exist_ok=True)
            deletion.touch()
            # By rename first, so that a kill leaves no half of it
            leaving = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            shutil.rmtree(folder.rename(leaving), ignore_errors=True)


def _read_references() -> set[str]:
    """The words in which a release may be named.

    In records of home, in decisions of the checkout, in jobs, and in what processes run.
    """
    import psutil

    home, references = read_settings().home, [str((read_settings().release or Path()).resolve())]
    for path in (
        home / "up" / "state.json",
        *home.glob("registry/*/champion.json"),
        *home.glob("registry/*/rollout.json"),
        *ROOT.glob("data/decisions/*/decision.json"),
    ):
        with suppress(FileNotFoundError):
            references.append(path.read_text(errors="replace"))
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or ended meanwhile
            references += [*process.cmdline(), process.cwd(), process.environ().get("TIDEMILL_RELEASE", "")]
    return set(re.findall(r"\w+", "\n".join(references))) | list_pinned_releases()


def read_release_identity(folder: Path) -> ReleaseIdentity:
    """Of the sealed release in *folder*. Raises ReleaseError when it has no manifest."""
    path = folder / MANIFEST
    if not path.exists():
        raise ReleaseError(
            f"{folder} has no {MANIFEST}, so it is no sealed release. `dvc repro package` builds one."
        )
    return ReleaseIdentity.model_validate_json(path.read_bytes())


@contextmanager
def _wait_for_promotion_lock(dataset: str) -> Iterator[None]:
    """One promotion of a dataset at a time."""
    with hold_lock(_get_dataset_folder(dataset) / "lock"):
        yield


def _get_journal_path(dataset: str) -> Path:
    return _get_dataset_folder(dataset) / "journal.jsonl"


def _get_dataset_folder(dataset: str) -> Path:
    return read_settings().home / "registry" / encode_name(dataset)
