"""Read the source as it is now, check the contract, publish the rows."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl

from tasks.core.frames import QUARANTINE, SERIES, get_newest_known_at
from tasks.edges.artifacts import merge_into_frame, read_frame, write_frame, write_json
from tasks.edges.files import compute_file_hash, hold_lock
from tasks.edges.params import read_document
from tasks.edges.refreshed import (
    RefreshKey,
    RefreshReport,
    compute_entry_hash,
    get_refresh_folder,
    read_refresh,
    record_refresh_fault,
)
from tasks.edges.registry import get_rows_path
from tasks.edges.settings import ROOT
from tasks.ingest.params import IngestParams
from tasks.refresh.appended import Source, read_all_rows, read_appended_rows
from tasks.refresh.source import read_stamp, write_source
from tasks.validate.params import ValidateParams
from tasks.validate.stage import CleanRows, build_limit_error, is_over_limit, split_rows


def refresh_rows(root: Path = ROOT, report: Callable[[str], None] = print) -> RefreshReport:
    """Publish the current dataset's rows as its source has them now.

    report: called with a line for each file; not at all when nothing has changed, and then the last
    report comes back with no new rows.
    Raises ContractError when the rows break the contract above its limit, SourceError when they
    cannot be read; the published rows stay.
    """
    document = read_document(root)
    dataset, folder = document.dataset, get_refresh_folder(document.dataset)
    params = document.parse_stage("ingest", IngestParams).source
    with hold_lock(folder / "lock"), record_refresh_fault(dataset):
        # Before the rows: what changes while they are read is read by the next refresh
        key = RefreshKey(entry=compute_entry_hash(document), source=read_stamp(params, dataset, root))
        last = read_refresh(dataset)
        if last is not None and last.key == key and _is_published(last):
            return last.model_copy(update={"n_new": 0, "is_changed": False})
        write_source(params, dataset, folder / "source", root)
        quarantine, published = folder / "quarantine.parquet", get_rows_path(dataset)
        source, read = Source(params, document.about, folder / "source", key.source), None
        if last is not None and last.key.entry == key.entry and _is_left_by(last, quarantine):
            broken = read_frame(quarantine, QUARANTINE).drop("rule", "reason")
            read = read_appended_rows(source, last, published, broken, report)
        if read is None:
            read = read_all_rows(source, report)
            if read_stamp(params, dataset, root) != key.source:
                read = read._replace(files={})
        contract = document.parse_stage("validate", ValidateParams)
        split = split_rows(read.rows, document.about, contract, read.before)
        # Only the published rows must outlive a power cut; the next refresh makes the rest again
        write_frame(quarantine, split.quarantined, QUARANTINE, sync=False)
        if is_over_limit(split.summary, contract):
            raise build_limit_error(split.summary, split.quarantined, contract, str(quarantine))
        n_before, version_before = _read_published(published)
        if read.before is None:
            write_frame(published, split.clean, SERIES)
        else:
            merge_into_frame(published, split.clean, SERIES)
        version, (as_of, n_series) = compute_file_hash(published), _compute_figures(split.clean, read.before)
        refresh = RefreshReport(
            dataset=dataset,
            version=version,
            as_of=as_of,
            n_rows=split.summary.clean,
            n_series=n_series,
            n_new=split.summary.clean - n_before,
            is_changed=version != version_before,
            n_quarantined=split.quarantined.height,
            by_rule=split.summary.by_rule,
            key=key,
            quarantine=compute_file_hash(quarantine),
            files=read.files,
            window=read.window,
        )
        write_json(folder / "report.json", refresh.model_dump(mode="json"), sync=False)
    return refresh


def _is_left_by(refresh: RefreshReport, quarantine: Path) -> bool:
    """Whether the published rows and the *quarantine* are still those of *refresh*."""
    return (
        _is_published(refresh) and quarantine.exists() and compute_file_hash(quarantine) == refresh.quarantine
    )


def _is_published(refresh: RefreshReport) -> bool:
    """Whether the published rows are still those of *refresh*; a promotion may replace them."""
    path = get_rows_path(refresh.dataset)
    return path.exists() and compute_file_hash(path) == refresh.version


def _compute_figures(clean: pl.DataFrame, before: CleanRows | None) -> tuple[datetime, int]:
    """(newest known_at, number of series) of *clean* and of the rows *before*."""
    if before is None:
        return get_newest_known_at(clean), clean["series_id"].n_unique()
    as_of = max([before.as_of, *clean.select(pl.col("known_at").max().drop_nulls()).to_series()])
    return as_of, pl.concat([before.series_ids, clean["series_id"]]).n_unique()


def _read_published(path: Path) -> tuple[int, str | None]:
    """(number of rows, hash) of what is published; (0, None) before the first time."""
    if not path.exists():
        return 0, None
    return pl.scan_parquet(path).select(pl.len()).collect().item(), compute_file_hash(path)
