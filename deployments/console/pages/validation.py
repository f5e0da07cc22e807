"""The validation page: counts, rules, quarantined rows, figures of each series, longest gaps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from deployments.console.html import (
    Markup,
    join_parts,
    render_element,
    render_page,
    render_section,
    render_table,
)
from tasks.core.numbers import format_number
from tasks.core.reports.validate import CleanProfile, ContractResult, ValidationSummary
from tasks.edges.artifacts import read_report
from tasks.edges.params import read_dataset
from tasks.validate.stage import get_failed_folder

# Quarantined rows, gaps and series on the page; all of them are in the parquet files and in
# profile.json
ROWS_SHOWN = 50


class ValidationFiles(NamedTuple):
    """The files of validate. quarantined: QUARANTINE rows. gaps: see `find_gaps`."""

    summary: ValidationSummary
    result: ContractResult
    profile: CleanProfile
    quarantined: pl.DataFrame
    gaps: pl.DataFrame


def list_inputs(root: Path) -> list[str]:
    """Paths of the page's inputs, relative to *root*; none where the last run stopped."""
    return [] if get_failed_folder(read_dataset(root)).exists() else [ValidationSummary.PATH]


def read_validation(root: Path) -> ValidationFiles:
    """Read the last run's files: those that it rejected, if it stopped; else those under *root*.

    Raises FrameError when validate has not run.
    """
    report = clean = quarantine = get_failed_folder(read_dataset(root))
    if not report.exists():
        report, clean = root / "data/reports/validate", root / "data/clean"
        quarantine = root / "data/quarantine"
    return ValidationFiles(
        read_report(report / "summary.json", ValidationSummary),
        read_report(report / "result.json", ContractResult),
        read_report(clean / "profile.json", CleanProfile),
        pl.read_parquet(quarantine / "rows.parquet"),
        pl.read_parquet(clean / "gaps.parquet"),
    )


def render_validation(root: Path) -> str:
    """The last validation as a page."""
    files = read_validation(root)
    summary = files.summary
    counts = join_parts(
        f"{summary.received:,} rows of {summary.series:,} series received: ",
        render_element("b", f"{summary.clean:,} clean"),
        ", ",
        render_element("b", f"{summary.quarantined:,} in quarantine"),
        f" ({summary.quarantined_frac:.3%}).",
    )
    return render_page(
        "validate",
        render_element("h1", "validate"),
        render_element("p", counts),
        _render_rules(summary, files.result),
        _render_quarantine(files.quarantined),
        _render_profile(files.profile),
        _render_gaps(files.gaps),
    )


def _render_rules(summary: ValidationSummary, result: ContractResult) -> Markup:
    type_of = {row.rule: row.type for row in result.results}
    rows = [
        {
            "rule": rule,
            "": render_element("span", "broken", "bad") if n else render_element("span", "holds", "good"),
            "rows": f"{n:,}",
            "share": f"{n / summary.received:.3%}",
            "checked by": type_of.get(rule, "first check"),
        }
        for rule, n in summary.by_rule.items()
    ]
    return _render_part("Rules", "A row may break several.", rows)


def _render_quarantine(quarantined: pl.DataFrame) -> Markup:
    rows = [
        {
            "series": row["series_id"],
            "event_time (UTC)": f"{row['event_time']:%F %T}",
            "rule": row["rule"],
            "reason": row["reason"],
        }
        for row in quarantined.head(ROWS_SHOWN).iter_rows(named=True)
    ]
    return _render_part("Quarantine", _format_share(len(rows), quarantined.height, "rows"), rows)


def _render_profile(profile: CleanProfile) -> Markup:
    rows = [
        {
            "series": series,
            "column": column,
            "rows": f"{figures.n:,}",
            "null": f"{figures.n_null:,}",
            **{name: _format_figure(getattr(figures, name)) for name in ("min", "mean", "max", "sd")},
            "first": figures.first,
            "last": figures.last,
        }
        for series in list(profile.root)[:ROWS_SHOWN]
        for column, figures in profile.root[series].items()
    ]
    n = len(profile.root)
    return _render_part("Clean rows", _format_share(min(n, ROWS_SHOWN), n, "series"), rows)


def _render_gaps(gaps: pl.DataFrame) -> Markup:
    longest = gaps.sort(["n_steps", "series_id", "start"], descending=[True, False, False])
    rows = [
        {
            "series": gap["series_id"],
            "first missing": f"{gap['start']:%F %T}",
            "last missing": f"{gap['end']:%F %T}",
            "steps": f"{gap['n_steps']:,}",
        }
        for gap in longest.head(ROWS_SHOWN).iter_rows(named=True)
    ]
    note = (
        f"{gaps['n_steps'].sum():,} steps of the calendar without a row, in {gaps.height:,} gaps."
        f" {_format_share(len(rows), gaps.height, 'gaps, longest first')}"
    )
    return _render_part("Gaps", note, rows)


def _render_part(title: str, note: str, rows: Sequence[Mapping[str, object]]) -> Markup:
    return render_section(title, render_element("p", note, "none"), *([render_table(rows)] if rows else []))


def _format_share(n: int, total: int, what: str) -> str:
    return f"{n:,} of {total:,} {what}." if n < total else f"{total:,} {what}."


def _format_figure(value: float | None) -> str:
    return "" if value is None else format_number(value)
