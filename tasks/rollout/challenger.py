"""The challenger of a rollout, verified before it answers or is judged."""

from tasks.core.errors import ReleaseError
from tasks.edges.release_files import SIGNATURE, get_release_folder
from tasks.edges.rollouts import Rollout
from tasks.release import Release, load_release


def load_challenger(rollout: Rollout) -> Release:
    """Load it. Raises ReleaseError when it is not the release that was sealed and signed."""
    folder = get_release_folder(rollout.challenger)
    release = load_release(folder)
    found = None if release.manifest is None else release.manifest.digest
    if found != rollout.challenger or not (folder / SIGNATURE).exists():
        raise ReleaseError(
            f"{folder} is not the release {rollout.challenger[:12]} as it was signed. The next release that"
            " passes the gate is copied again."
        )
    return release
