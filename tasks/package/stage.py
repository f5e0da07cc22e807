"""Build a package: assemble, seal, write provenance and card, build the Bento."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.package import Provenance
from tasks.core.reports.quantize import QuantizeDecision, QuantizeLatency
from tasks.edges.artifacts import ReportT, read_report, write_report, write_text
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
    """Build the release into the empty *folder*.

    Data and models are from *root*, code is from *checkout*.
    """
    unsealed, quantized = root / "models/challenger", root / "models/quantized"
    sealed = build_release(unsealed / "challenger", quantized, rows, params.rows_steps, folder)
    release = load_release(folder)
    evaluation = _find_report(EnsembleReport, root)
    provenance = _build_provenance(checkout, sealed, evaluation, _find_report(QuantizeDecision, root))
    write_report(folder / "provenance.json", provenance)
    build_bento(folder, checkout, folder / "bento")
    size = compute_sizes(folder / "bento")
    write_report(folder / "provenance.json", provenance.model_copy(update={"bento_bytes": size}))
    latency = _find_report(QuantizeLatency, root)
    card = render_model_card(release, sealed, evaluation, provenance, latency)
    write_text(folder / "model_card.md", card)
    for name in ("dvc.lock", "params.yaml"):
        if (root / name).exists():
            shutil.copyfile(root / name, folder / name)
    return PackageResult(
        sealed,
        build_release(unsealed / "baseline", quantized, rows, params.rows_steps, folder / "baseline"),
        size,
    )


def _build_provenance(
    checkout: Path, sealed: Manifest, evaluation: EnsembleReport | None, decision: QuantizeDecision | None
) -> Provenance:
    return Provenance(
        digest=sealed.digest,
        code=read_code_state(checkout),
        built_at=datetime.now(UTC).replace(microsecond=0),
        versions=list_versions(),
        metrics=None if evaluation is None else build_metrics(evaluation, sealed.model),
        quantize=decision,
    )


def _find_report(kind: type[ReportT], root: Path) -> ReportT | None:
    """The report under *root*; None when its stage has not run."""
    path = root / kind.PATH
    return read_report(path, kind) if path.exists() else None
