"""Results as tables in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from deployments.ops.doctor import DoctorFinding
from deployments.ops.forecaster_process import describe_served_dataset

SERIES_SHOWN = 5


def report_forecast(made: dict[str, Any]) -> None:
    """A table per series: date, forecast and quantiles, with the unit and who spoke."""
    console = _build_console()
    for series in made["series"][:SERIES_SHOWN]:
        steps = series["steps"]
        quantiles = list(steps[0]["quantiles"])
        table = Table(
            "event_time",
            "y_hat",
            *(f"q {q}" for q in quantiles),
            title=f"{series['series_id']}: {made['target']}, {made['unit']}",
            title_justify="left",
        )
        for step in steps:
            table.add_row(
                _format_date(step["event_time"]),
                _format_number(step["y_hat"]),
                *(_format_number(step["quantiles"][q]) for q in quantiles),
            )
        console.print(table)
        console.print(f"  spoken from what was known at {series['cutoff']}")
    if (rest := len(made["series"]) - SERIES_SHOWN) > 0:
        console.print(f"... and {rest} more series (`tidemill forecast --series NAME`, or `--json`)")
    for absent in made.get("absent", [])[:SERIES_SHOWN]:
        console.print(f"{absent['series_id']}: {absent['reason']}")
    model = made["model"]
    console.print(f"Model: {model['name']}, version {model['version']}, digest {model['digest'][:12]}")


def report_status(found: dict[str, Any]) -> None:
    """The status as a table of two columns."""
    champion = found["champion"]
    table = Table(show_header=False)
    table.add_row("dataset", f"{found['dataset']} ({', '.join(found['models'])})")
    table.add_row("data as of", str(found["as_of"] or "nothing ingested yet"))
    table.add_row(
        "champion",
        (
            f"{champion['model']} {champion['version']}, digest {champion['digest'][:12]}"
            if champion
            else "none yet; `tidemill run` makes one"
        ),
    )
    for name, decision in found["decisions"].items():
        table.add_row(
            name,
            (
                "; ".join(f"{key} {value}" for key, value in decision.items())
                if decision
                else f"has not run for {found['dataset']}"
            ),
        )
    running = ", ".join(
        f"{name} {one['address']} (process {one['pid']})" for name, one in found["running"].items()
    )
    if running:
        running += f"; {describe_served_dataset(found['served_dataset'], found['dataset'])}"
    table.add_row("running", running or "nothing; `tidemill up` starts what operators see")
    table.add_row("home", found["home"])
    _build_console().print(table)


def report_feed(found: dict[str, Any]) -> None:
    """The feed: what its table holds, who lands, how far each source is."""
    console = _build_console()
    table = found["table"]
    if table is None:
        console.print(
            f"{found['dataset']}: no record has landed yet. `tidemill feed` or `tidemill feed drain` lands"
            " them."
        )
    else:
        _report_table(console, found)
    for member in found["members"]:
        console.print(f"member {member['member']} (process {member['pid']}): {_format_member(member)}")


def _report_table(console: Console, found: dict[str, Any]) -> None:
    table = found["table"]
    rows = ", ".join(f"{n:,} {place}" for place, n in table["rows"].items()) or "no rows"
    console.print(f"{found['dataset']}: version {table['version']} in {table['n_files']} files; {rows}")
    window = found["window"]
    console.print(
        f"window: {window['n_rows']:,} rows up to {window['end']}"
        if window
        else "window: none has closed yet"
    )
    if found["n_gaps"] is not None:
        console.print(f"gaps: {found['n_gaps']:,} between bars; `tidemill feed gaps` lists them")
    sources = Table("source", "next offset", "lag", "member")
    lags = {
        one["source"]: (one["lag"], member["member"])
        for member in found["members"]
        if member["is_alive"]
        for one in member["sources"]
    }
    for source, mark in table["marks"].items():
        lag, member = lags.get(source, ("nobody reads it", "-"))
        sources.add_row(source, f"{mark:,}", f"{lag:,}" if isinstance(lag, int) else lag, member)
    console.print(sources)


def _format_member(member: dict[str, Any]) -> str:
    if member["fault"]:
        return f"does not land since {member['at']}: {member['fault']}"
    if not member["is_alive"]:
        return f"silent since {member['at']}"
    rate = f"{member['records_per_s']:,.0f} records/s, {member['buffer_bytes'] / 1e6:.1f} MB held"
    return f"{rate}; quarantined {member['quarantine_frac']:.2%}; watermark {member['watermark']}"


def report_rows(rows: list[dict[str, Any]]) -> None:
    """A table with a column for each key, in the order of their coming."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = Table(*names)
    for row in rows:
        shown.add_row(
            *(
                (
                    ""
                    if row.get(name) is None
                    else f"{row[name]:,}"
                    if type(row[name]) is int
                    else str(row[name])
                )
                for name in names
            )
        )
    _build_console().print(shown)


def report_findings(findings: list[DoctorFinding]) -> None:
    """One line per look, with the advice where something is wrong."""
    console = _build_console()
    for finding in findings:
        console.print(f"{'ok   ' if finding.well else 'WRONG'} {finding.what}: {finding.found}")
        if not finding.well:
            console.print(f"      {finding.advice}")


def _build_console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


def _format_date(time: str) -> str:
    return time.removesuffix("Z").removesuffix("T00:00:00")


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
