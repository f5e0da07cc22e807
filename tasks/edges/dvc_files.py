"""The files that DVC writes in place, so that kill -9 may leave them empty or cut off.

Then every later `dvc repro` is refused. Nothing is lost with them: `rwlock` names who works on
which path, and without `dvc.lock` DVC takes unchanged stages from its run cache.
"""

import json
from pathlib import Path

import yaml


def find_broken_dvc_files(root: Path) -> list[Path]:
    """Those of `.dvc/tmp/rwlock` and `dvc.lock` in the checkout *root* that DVC cannot read."""
    from dvc.rwlock import SCHEMA as RWLOCK_SCHEMA  # 0.2 s to import, and only after a failure
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    found = []
    for path, parse, schema in (
        (root / ".dvc/tmp/rwlock", json.loads, RWLOCK_SCHEMA),
        (root / "dvc.lock", yaml.safe_load, COMPILED_LOCKFILE_SCHEMA),
    ):
        try:
            if path.exists():
                schema(parse(path.read_text("utf-8")))
        except (ValueError, yaml.YAMLError, Invalid):
            found.append(path)
    return found


def delete_broken_dvc_files(root: Path) -> list[Path]:
    """Remove what `find_broken_dvc_files` finds; the removed paths.

    DVC's own guard of `rwlock` is held, so that no other DVC is just writing it.
    """
    from dvc.lock import make_lock

    folder = root / ".dvc/tmp"
    if not folder.exists() or not find_broken_dvc_files(root):
        return []
    with make_lock(str(folder / "rwlock.lock"), tmp_dir=str(folder), wait=True):
        broken = find_broken_dvc_files(root)
        for path in broken:
            path.unlink()
    return broken
