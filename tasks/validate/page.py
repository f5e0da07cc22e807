"""The report page: one file that needs nothing from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import polars as pl

# Quarantined rows, gaps and series on the page; all of them are in the parquet files and in
# profile.json
SHOWN_ROWS = 50

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: #1b2733; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; display: block; overflow-x: auto }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #dde3ea; text-align: left; vertical-align: top; white-space: nowrap }
th { color: #5b6b7b; font-weight: 600 } td.wide { white-space: normal }
.held { color: #1a7f4b } .broken { color: #b3261e; font-weight: 600 } .note { color: #5b6b7b }
"""


def render_validation(
    summary: dict[str, Any],
    result: dict[str, Any],
    quarantined: pl.DataFrame,
    profile: dict[str, Any],
    gaps: pl.DataFrame,
) -> str:
    """HTML of one validation: the counts, each rule, rows in quarantine, figures of each series,
    the longest gaps.
    """
    head = (
        f"<p>{summary['received']:,} rows of {summary['series']:,} series received: <b>{summary['clean']:,}"
        f" clean</b>, <b>{summary['quarantined']:,} in quarantine</b>"
        f" ({summary['quarantined_frac']:.3%}).</p>"
    )
    parts = [
        head,
        _render_rules(summary, result),
        _render_quarantine(quarantined),
        _render_figures(profile),
        _render_gaps(gaps),
    ]
    return (
        "<!doctype html><html lang='en'><meta"
        f" charset='utf-8'><title>validate</title><style>{_STYLE}</style><h1>validate</h1>{''.join(parts)}</html>\n"
    )


def _render_rules(summary: dict[str, Any], result: dict[str, Any]) -> str:
    of_suite = {r["rule"]: r["type"] for r in result["results"]}
    rows = [
        (
            escape(rule),
            _format_held(n),
            f"{n:,}",
            f"{n / summary['received']:.3%}",
            escape(of_suite.get(rule, "first check")),
        )
        for rule, n in summary["by_rule"].items()
    ]
    return _render_section(
        "Rules", "A row may break several.", ("rule", "", "rows", "share", "checked by"), rows
    )


def _format_held(n: int) -> str:
    return "<span class='broken'>broken</span>" if n else "<span class='held'>holds</span>"


def _render_quarantine(quarantined: pl.DataFrame) -> str:
    shown = quarantined.head(SHOWN_ROWS).iter_rows(named=True)
    rows = [
        (escape(r["series_id"]), f"{r['event_time']:%F %T}", escape(r["rule"]), escape(r["reason"]))
        for r in shown
    ]
    return _render_section(
        "Quarantine",
        _format_share(len(rows), quarantined.height, "rows"),
        ("series", "event_time (UTC)", "rule", "reason"),
        rows,
    )


def _render_figures(profile: dict[str, Any]) -> str:
    rows = [
        (
            escape(series),
            escape(column),
            f"{f['n']:,}",
            f"{f['n_null']:,}",
            *(_format_number(f[k]) for k in ("min", "mean", "max", "sd")),
            f["first"][:16],
            f["last"][:16],
        )
        for series in list(profile)[:SHOWN_ROWS]
        for column, f in profile[series].items()
    ]
    names = ("series", "column", "rows", "null", "min", "mean", "max", "sd", "first", "last")
    return _render_section(
        "Clean rows", _format_share(min(len(profile), SHOWN_ROWS), len(profile), "series"), names, rows
    )


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _render_gaps(gaps: pl.DataFrame) -> str:
    longest = (
        gaps.sort(["n_steps", "series_id", "start"], descending=[True, False, False])
        .head(SHOWN_ROWS)
        .iter_rows(named=True)
    )
    rows = [
        (escape(g["series_id"]), f"{g['start']:%F %T}", f"{g['end']:%F %T}", f"{g['n_steps']:,}")
        for g in longest
    ]
    note = (
        f"{gaps['n_steps'].sum():,} steps of the calendar without a row, in {gaps.height:,} gaps."
        f" {_format_share(len(rows), gaps.height, 'gaps, longest first')}"
    )
    return _render_section("Gaps", note, ("series", "first missing", "last missing", "steps"), rows)


def _format_share(n: int, total: int, what: str) -> str:
    return f"{n:,} of {total:,} {what}." if n < total else f"{total:,} {what}."


def _render_section(title: str, note: str, names: Iterable[str], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><tr>{head}</tr>{body}</table>" if rows else ""
    return f"<h2>{title}</h2><p class='note'>{note}</p>{table}"
