"""The stage in one screen: assemble, seal, say where it comes from, wrap."""

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tasks.core.reports.package import Provenance
from tasks.core.reports.quantize import QuantizeDecision
from tasks.edges.artifacts import read_json, read_report, write_report, write_text
from tasks.package.assemble import build_release
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
    summary = _read_summary(root / "data/reports/ensemble/summary.json")
    provenance = _build_provenance(checkout, sealed, summary, _read_decision(root))
    write_report(folder / "provenance.json", provenance)
    build_bento(folder, checkout, folder / "bento")
    size = compute_sizes(folder / "bento")
    write_report(folder / "provenance.json", provenance.model_copy(update={"bento_bytes": size}))
    write_text(folder / "model_card.md", render_model_card(release, sealed, summary, provenance))
    for name in ("dvc.lock", "params.yaml"):
        if (root / name).exists():
            shutil.copyfile(root / name, folder / name)
    return PackageResult(
        sealed,
        build_release(bodies / "baseline", quantized, rows, params.rows_steps, folder / "baseline"),
        size,
    )


def _build_provenance(
    checkout: Path, sealed: Manifest, summary: Mapping[str, Any], decision: QuantizeDecision | None
) -> Provenance:
    return Provenance(
        digest=sealed.digest,
        code=read_code_state(checkout),
        built_at=datetime.now(UTC).replace(microsecond=0),
        versions=list_versions(),
        metrics=build_metrics(summary, sealed.model),
        quantize=decision,
    )


def _read_decision(root: Path) -> QuantizeDecision | None:
    """What quantize decided; None when it has not run."""
    path = root / QuantizeDecision.PATH
    return read_report(path, QuantizeDecision) if path.exists() else None


def _read_summary(path: Path) -> Mapping[str, Any]:
    """The ensemble's evaluation; empty when there is none."""
    summary: Mapping[str, Any] = read_json(path) if path.exists() else {}
    return summary
