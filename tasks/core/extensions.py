"""The folder of a user's own code: models, feature functions and sources."""

import warnings
from pathlib import Path

FOLDER = "tasks/extensions"
OLD_FOLDER = "own"  # works for one release


def list_extension_folders(root: Path) -> tuple[Path, Path]:
    """The folders of a checkout that hold a user's own code, the present one first."""
    return root / FOLDER, root / OLD_FOLDER


def warn_of_old_folder(path: Path) -> None:
    """Warn if the file *path* is in the old folder."""
    if path.parent.name == OLD_FOLDER:
        message = (
            f"{path} is in the folder `{OLD_FOLDER}`, which goes with the next release. Move it:"
            f" `git mv {OLD_FOLDER}/{path.name} {FOLDER}/{path.name}`."
        )
        warnings.warn(message, FutureWarning, stacklevel=2)
