"""No release without the leak gate's word: it must speak of this release's features and data, and have nothing to say against them."""

from tasks.core.leaks import LeakVerdict, refuse_leaks, refuse_other
from tasks.release import Release
from tasks.release.manifest import read_strict


def refuse_leaking(release: Release) -> None:
    """Raise LeakError or ReleaseError unless the verdict that the release carries is about its own schema and rows, and is clean."""
    where = f"promote {release.model}"
    verdict = read_strict(release.folder / "leaks.json", LeakVerdict)
    refuse_other(verdict, where, schema_hash=release.schema.hash, data_version=release.blend.data_version)
    refuse_leaks(verdict, where)
