"""A folder that looks like a sealed release to the registry, which reads its manifest alone."""

import hashlib
import json
from pathlib import Path


def make_sealed_folder(
    parent: Path, digest: str, dataset="tides", seen_until="2023-06-01T00:00:00+00:00", **more
) -> Path:
    """more: further keys of the manifest, as `traits`."""
    folder = parent / digest
    (folder / "members").mkdir(parents=True)
    (folder / "members/ridge.onnx").write_bytes(digest.encode())
    manifest = {
        "digest": digest,
        "dataset": dataset,
        "model": "ensemble",
        "seen_until": seen_until,
        "as_of": "2024-01-02T00:00:00+00:00",
        "files": {"members/ridge.onnx": hashlib.sha256(digest.encode()).hexdigest()},
        **more,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "baseline").mkdir()
    (folder / "baseline/manifest.json").write_text("{}")
    return folder
