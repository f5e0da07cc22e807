"""The stage in one screen: assemble, seal, say where it comes from, wrap."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tasks.edges.artifacts import read_json, write_json, write_text
from tasks.package.assemble import build_release, read_decision
from tasks.package.bento import build_bento, compute_sizes
from tasks.package.card import render_model_card
from tasks.package.params import PackageParams
from tasks.package.provenance import build_metrics, list_versions, read_code_state
from tasks.release import Manifest, load_release


class PackageResult(NamedTuple):
    """What was built: both manifests, and the Bento's size in bytes by folder."""

    challenger: Manifest
    baseline: Manifest
    bento_bytes: dict[str, int]


def build_package(
    root: Path, checkout: Path, rows: pl.DataFrame, params: PackageParams, folder: Path
) -> PackageResult:
    """Build the release into the empty *folder*: data and models from *root*, code from
    *checkout*.
    """
    bodies, quantized = root / "models/challenger", root / "models/quantized"
    sealed = build_release(bodies / "challenger", quantized, rows, params.rows_steps, folder)
    release = load_release(folder)
    summary, decision = _read_or_empty(root / "data/reports/ensemble/summary.json"), read_decision(quantized)
    provenance = _build_provenance(checkout, sealed, summary, decision)
    write_json(folder / "provenance.json", provenance)
    build_bento(folder, checkout, folder / "bento")
    size = compute_sizes(folder / "bento")
    write_json(folder / "provenance.json", {**provenance, "bento_bytes": size})
    write_text(folder / "model_card.md", render_model_card(release, sealed, summary, decision, provenance))
    for name in ("dvc.lock", "params.yaml"):
        if (root / name).exists():
            shutil.copyfile(root / name, folder / name)
    return PackageResult(
        sealed,
        build_release(bodies / "baseline", quantized, rows, params.rows_steps, folder / "baseline"),
        size,
    )


def _build_provenance(
    checkout: Path, sealed: Manifest, summary: dict[str, Any], decision: dict[str, Any]
) -> dict[str, Any]:
    return {
        "digest": sealed.digest,
        "code": read_code_state(checkout),
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": list_versions(),
        "metrics": build_metrics(summary, sealed.model),
        "quantize": decision,
    }


def _read_or_empty(path: Path) -> dict[str, Any]:
    said: dict[str, Any] = read_json(path) if path.exists() else {}
    return said
