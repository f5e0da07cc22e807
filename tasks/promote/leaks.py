"""No release without the verdict of the leak gate.

The verdict must be about this release's features and data, and must name no leak.
"""

from tasks.core.leaks import LeakVerdict, check_leaks, check_verdict_inputs
from tasks.release import Release
from tasks.release.manifest import read_strict


def check_release_is_leak_free(release: Release) -> None:
    """Check the leak verdict in the release.

    Raises LeakError or ReleaseError unless it is clean and about the release's schema and rows.
    """
    where = f"promote {release.model}"
    verdict = read_strict(release.folder / "leaks.json", LeakVerdict)
    check_verdict_inputs(
        verdict, where, schema_hash=release.schema.hash, data_version=release.ensemble.data_version
    )
    check_leaks(verdict, where)
