"""The stage in one screen: assemble, seal, say where it comes from, wrap."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tasks.edges.artifacts import read_json, write_json, write_text
from tasks.package.assemble import assemble, read_decision
from tasks.package.bento import build_bento, size_of
from tasks.package.card import model_card
from tasks.package.params import PackageParams
from tasks.package.provenance import code_state, metrics, versions
from tasks.release import Manifest, load


class Packaged(NamedTuple):
    """What was built: both manifests, and the Bento's size in bytes by folder."""

    challenger: Manifest
    baseline: Manifest
    bento_bytes: dict[str, int]


def package(root: Path, checkout: Path, rows: pl.DataFrame, params: PackageParams, folder: Path) -> Packaged:
    """Build the release into the empty *folder*: data and models from *root*, code from *checkout*."""
    bodies, quantized = root / "models/challenger", root / "models/quantized"
    sealed = assemble(bodies / "challenger", quantized, rows, params.rows_steps, folder)
    release = load(folder)
    summary, decision = _read_or_empty(root / "data/reports/ensemble/summary.json"), read_decision(quantized)
    provenance = _provenance(checkout, sealed, summary, decision)
    write_json(folder / "provenance.json", provenance)
    build_bento(folder, checkout, folder / "bento")
    size = size_of(folder / "bento")
    write_json(folder / "provenance.json", {**provenance, "bento_bytes": size})
    write_text(folder / "model_card.md", model_card(release, sealed, summary, decision, provenance))
    for name in ("dvc.lock", "params.yaml"):
        if (root / name).exists():
            shutil.copyfile(root / name, folder / name)
    return Packaged(sealed, assemble(bodies / "baseline", quantized, rows, params.rows_steps, folder / "baseline"), size)


def _provenance(checkout: Path, sealed: Manifest, summary: dict[str, Any], decision: dict[str, Any]) -> dict[str, Any]:
    return {
        "digest": sealed.digest,
        "code": code_state(checkout),
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "metrics": metrics(summary, sealed.model),
        "quantize": decision,
    }


def _read_or_empty(path: Path) -> dict[str, Any]:
    said: dict[str, Any] = read_json(path) if path.exists() else {}
    return said
