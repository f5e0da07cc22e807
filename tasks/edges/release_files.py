"""The files of promoted releases: what is copied into home, what is kept, what is deleted."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from tasks.core.errors import ReleaseError
from tasks.core.versions import ReleaseTraits
from tasks.edges.artifacts import write_folder, write_text
from tasks.edges.files import compute_file_hash
from tasks.edges.jobs import list_pinned_releases
from tasks.edges.recorded import list_answering_releases
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import ROOT, read_settings

MANIFEST, SIGNATURE = "manifest.json", "signature.json"
BUNDLE = "model.sig"  # for other tools; made at the promotion, as the signature
_OF_PYTHON = "__pycache__"  # which a service that runs in a release writes


class ReleaseIdentity(BaseModel):
    """What the registry needs of a release's manifest; its other keys are the release's."""

    digest: str
    dataset: str
    model: str
    seen_until: datetime
    data_version: str = ""  # sha256 of the rows
    traits: ReleaseTraits | None = None
    files: dict[str, str] = {}  # sha256 by path


def get_registry_folder(dataset: str) -> Path:
    """Where the records of the releases of *dataset* are."""
    return read_settings().home / "registry" / encode_name(dataset)


def get_release_folder(digest: str) -> Path:
    """Where a promoted release is, until it is deleted."""
    return read_settings().home / "releases" / digest


def find_release_deletion(dataset: str, digest: str) -> datetime | None:
    """Since when a release that was promoted is not kept any more; None when it is, or unknown."""
    path = _get_deletion_path(dataset, digest)
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.exists() else None


def find_release_identity(dataset: str, digest: str) -> ReleaseIdentity | None:
    """The manifest of a release that was promoted, kept or deleted; None when it is not known."""
    paths = (get_release_folder(digest) / MANIFEST, _get_deletion_path(dataset, digest))
    text = next((path.read_bytes() for path in paths if path.exists()), b"")
    return ReleaseIdentity.model_validate_json(text) if text else None


def _get_deletion_path(dataset: str, digest: str) -> Path:
    return get_registry_folder(dataset) / "deleted" / digest


def write_release_copy(
    dataset: str,
    source: Path,
    target: Path,
    sign: Callable[[Path], object],
    hashes: Mapping[str, str] | None = None,
) -> None:
    """Copy a release without the releases nested in it, and sign the copy.

    The baseline is a release of its own in models/release. The release inside the Bento is a part.
    sign: called with the folder of the copy. One that is whole and has no signature gets one.
    hashes: that the copy must have; a copy that is there and has others is made again.
    Raises ReleaseError when the source was changed since they were computed.
    """
    _get_deletion_path(dataset, target.name).unlink(missing_ok=True)
    if _is_whole(target, hashes):  # a service may run in it, so it stays as it is
        if not (target / SIGNATURE).exists():
            sign(target)
        return

    def find_nested(folder: str, names: list[str]) -> set[str]:
        is_top = Path(folder) == source
        nested = {name for name in names if is_top and (Path(folder) / name / MANIFEST).exists()}
        return nested | {_OF_PYTHON} | ({SIGNATURE, BUNDLE} if is_top else set())

    with write_folder(target) as fresh:
        shutil.copytree(source, fresh, dirs_exist_ok=True, ignore=find_nested)
        if hashes is not None and (change := find_changed_file(hashes, compute_release_hashes(fresh))):
            raise ReleaseError(f"{source}: {change} while it was copied. Nothing was promoted.")
        sign(fresh)


def compute_release_hashes(folder: Path, *, without_nested: bool = False) -> dict[str, str]:
    """sha256 of each file of the release in *folder*, by path.

    The signature itself and what Python compiles are not in it.
    without_nested: nor are the releases in it, as in models/release.
    Raises ReleaseError for a link, whose target could change afterwards.
    """
    nested = [path.parent for path in folder.glob(f"*/{MANIFEST}")] if without_nested else []
    paths = [p for p in sorted(folder.rglob("*")) if not any(p.is_relative_to(other) for other in nested)]
    if links := [path for path in paths if path.is_symlink()]:
        raise ReleaseError(
            f"{links[0]} is a link, and a release has files alone: what a link points to may change. Build"
            " it again with `dvc repro package`."
        )
    names = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    return {
        name: compute_file_hash(path)
        for name, path in names.items()
        if name != SIGNATURE and (path.parent.name, path.suffix) != (_OF_PYTHON, ".pyc")
    }


def find_changed_file(before: Mapping[str, str], after: Mapping[str, str]) -> str | None:
    """The first file that was changed, added or removed, and which of these; None without one."""
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            verb = "added" if name not in before else "removed" if name not in after else "changed"
            return f"{name} was {verb}"
    return None


def _is_whole(folder: Path, hashes: Mapping[str, str] | None) -> bool:
    """Whether the release in *folder* has the bytes that were sealed, and signed, and *hashes*."""
    try:
        sealed, found = read_release_identity(folder).files, compute_release_hashes(folder)
        path = folder / SIGNATURE
        signed = json.loads(path.read_text())["files"] if path.exists() else found
    except (ReleaseError, ValueError, KeyError):
        return False
    without_bundle = {name: digest for name, digest in found.items() if name != BUNDLE}
    is_expected = hashes is None or without_bundle == hashes
    return sealed.items() <= found.items() and found == signed and is_expected


def delete_old_releases(dataset: str, promoted: Sequence[str], former: str | None) -> None:
    """Delete releases of this dataset beyond the newest `keep_releases`.

    promoted: digests in the order of their promotions.
    former: the champion until now. It, its successor and what is in use always stay, and so does a
    release as long as an answer of it is recent: it is what the answer is recomputed from.
    """
    newest_first = list(dict.fromkeys(reversed(promoted)))
    kept = {*newest_first[: max(read_settings().keep_releases, 2)], former}
    folders = [get_release_folder(digest) for digest in newest_first if digest not in kept]
    in_use: set[str] = set()
    if old := [folder for folder in folders if folder.exists()]:
        in_use = _read_references() | list_answering_releases(dataset, datetime.now(UTC))
    for folder in old:
        if folder.name not in in_use:
            deletion = _get_deletion_path(dataset, folder.name)
            manifest = folder / MANIFEST
            write_text(deletion, manifest.read_text() if manifest.exists() else "")
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
    """What the manifest in *folder* says. Raises ReleaseError when there is none."""
    path = folder / MANIFEST
    if not path.exists():
        raise ReleaseError(
            f"{folder} has no {MANIFEST}, so it is no sealed release. `dvc repro package` builds one."
        )
    return ReleaseIdentity.model_validate_json(path.read_bytes())
