"""Build a package: assemble, seal, write provenance and card, build the Bento."""

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.explain import ExplainSummary, FeatureImportances
from tasks.core.reports.package import CARD_NAME, PACKAGED_REPORTS, OnlineComparison, Provenance
from tasks.core.reports.quantize import QuantizeDecision, QuantizeLatency
from tasks.edges.artifacts import ReportT, read_report, write_report, write_text
from tasks.edges.params import Section
from tasks.package.assemble import build_release
from tasks.package.bento import REQUIREMENTS, build_bento, compute_sizes
from tasks.package.card import render_model_card
from tasks.package.online import compare_online
from tasks.package.params import PackageParams
from tasks.package.provenance import build_metrics, list_versions, read_code_state
from tasks.package.sbom import SBOM_NAME, render_sbom
from tasks.release import Manifest, load_release


class PackageResult(NamedTuple):
    """What was built: both manifests, the Bento's size in bytes by folder, and its comparison."""

    challenger: Manifest
    baseline: Manifest
    bento_bytes: dict[str, int]
    online: OnlineComparison


def build_package(
    root: Path,
    checkout: Path,
    rows: pl.DataFrame,
    params: PackageParams,
    folder: Path,
    parameters: Mapping[str, Section],
) -> PackageResult:
    """Build the release into the empty *folder*.

    Data and models are from *root*, code is from *checkout*.
    parameters: by model, and of the ensemble.
    Raises ReleaseError when the Bento does not compute the numbers of training.
    """
    unsealed, quantized = root / "models/challenger", root / "models/quantized"
    sealed = build_release(unsealed / "challenger", quantized, rows, params.rows_steps, folder, parameters)
    release = load_release(folder)
    evaluation = _find_report(EnsembleReport, root)
    decision = _find_report(QuantizeDecision, root)
    provenance = _build_provenance(checkout, sealed, evaluation, decision)
    write_report(folder / "provenance.json", provenance)
    build_bento(folder, checkout, folder / "bento")
    lock = (checkout / REQUIREMENTS).read_text()
    write_text(folder / SBOM_NAME, render_sbom(sealed, lock, provenance.built_at))
    size = compute_sizes(folder / "bento")
    table = pl.scan_parquet(root / "data/features/table.parquet")
    online = compare_online(release, folder / "bento", rows, table)
    write_report(folder / Path(OnlineComparison.PATH).name, online)
    write_report(folder / "provenance.json", provenance.model_copy(update={"bento_bytes": size}))
    explained = (
        _find_report(FeatureImportances, root),
        _find_report(ExplainSummary, root),
        _find_report(QuantizeLatency, root),
    )
    write_text(
        folder / CARD_NAME, render_model_card(release, sealed, evaluation, provenance, online, *explained)
    )
    _copy_reports(root, folder)
    nested = folder / "baseline"
    baseline = build_release(unsealed / "baseline", quantized, rows, params.rows_steps, nested, parameters)
    write_report(nested / "provenance.json", _build_provenance(checkout, baseline, evaluation, decision))
    for name in ("dvc.lock", "params.yaml"):
        if (root / name).exists():
            shutil.copyfile(root / name, folder / name)
            shutil.copyfile(root / name, nested / name)
    return PackageResult(sealed, baseline, size, online)


def _copy_reports(root: Path, folder: Path) -> None:
    """The reports that the card was made from, for the charts of its page."""
    for kind in (EnsembleReport, FeatureImportances, ExplainSummary):
        if (root / kind.PATH).exists():
            target = folder / PACKAGED_REPORTS / kind.PATH
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / kind.PATH, target)


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
