"""Results as tables in the terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from deployments.forecaster.shapes import Absent, Prediction
from deployments.ops.doctor import DoctorFinding
from deployments.ops.forecaster_process import describe_served_dataset
from deployments.ops.loop_status import LoopStatus
from deployments.ops.status import CheckoutStatus
from tasks.core.numbers import format_number
from tasks.core.reports.feed import FeedStatus, FeedTableStatus, SeenMember

if TYPE_CHECKING:
    from deployments.ops.forecast import LocalForecast

Rows = Sequence[Mapping[str, object]]

SERIES_SHOWN = 5


def report_forecast(made: "Prediction | LocalForecast", absent: Sequence[Absent] = ()) -> None:
    """A table per series: date, forecast and quantiles, with the unit and the release.

    absent: series that were asked for and cannot be forecast.
    """
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
        console.print(f"  from what was known at {series['cutoff']}")
    if (rest := len(made["series"]) - SERIES_SHOWN) > 0:
        console.print(f"... and {rest} more series (`tidemill forecast --series NAME`, or `--json`)")
    for missing in absent[:SERIES_SHOWN]:
        console.print(f"{missing['series_id']}: {missing['reason']}")
    model = made["model"]
    console.print(f"Model: {model['name']}, version {model['version']}, digest {model['digest'][:12]}")


def report_status(current: CheckoutStatus, *, is_redrawn: bool = False) -> None:
    """The status as a table of two columns. is_redrawn: in the place of what the terminal shows."""
    champion, loop = current.champion, current.loop
    table = Table(show_header=False)
    table.add_row("dataset", f"{current.dataset} ({', '.join(current.models)})")
    table.add_row(
        "data as of",
        f"{loop.freshness.as_of.isoformat()}, {_format_age(loop.freshness.age_s)} ago"
        if loop.freshness
        else "nothing ingested yet",
    )
    age = "" if loop.champion_age_steps is None else f", {loop.champion_age_steps} steps old"
    table.add_row(
        "champion",
        (
            f"{champion.model} {champion.version}, digest {champion.digest[:12]}{age}"
            if champion
            else "none yet; `tidemill run` makes one"
        ),
    )
    if rollout := current.rollout:
        share = f"at {rollout.weight:.0%}, {rollout.state}"
        table.add_row("rollout", f"{rollout.model} {rollout.challenger[:12]} {share}: {rollout.reason}")
    for waiting in current.approvals:
        table.add_row("waits for approval", f"{waiting.digest[:12]} by {waiting.author}: {waiting.reason}")
    _add_loop_rows(table, loop)
    for name, decision in current.decisions.model_dump(mode="json").items():
        table.add_row(
            name,
            (
                "; ".join(f"{key} {value}" for key, value in decision.items())
                if decision
                else f"has not run for {current.dataset}"
            ),
        )
    running = ", ".join(
        f"{name} {part.address} (process {part.pid})" for name, part in current.running.items()
    )
    if running:
        running += f"; {describe_served_dataset(current.served_dataset, current.dataset)}"
    table.add_row("running", running or "nothing; `tidemill up` starts what operators see")
    table.add_row("home", current.home)
    console = _build_console()
    if is_redrawn:
        console.clear()  # nothing unless it is a terminal
    console.print(table)


def _add_loop_rows(table: Table, loop: LoopStatus) -> None:
    levels = [
        f"{level.name} {_format_number(level.newest)} (usually {_format_number(level.normal)}): {level.state}"
        if level.newest is not None and level.normal is not None
        else f"{level.name}: {level.state}"
        for level in loop.levels
    ]
    table.add_row("levels", "; ".join(levels) or "not measured yet")
    alarms = [f"{alarm.name}: {alarm.description}" for alarm in loop.alarms]
    table.add_row("alarms", "; ".join(alarms) or "none")
    last, due = loop.last_retraining, loop.next_due
    if last is not None:
        gain = "" if last.gain_frac is None else f", {last.gain_frac:+.1%} against the former one since"
        result = f"{last.result}{f' ({last.error})' if last.error else ''}{gain}"
        text = f"{last.started_at:%F %T}Z by {', '.join(last.triggers)} ({last.recipe}): {result}"
    table.add_row("last retraining", "none yet" if last is None else text)
    runs = [f"{name} {time:%F %T}Z" for name, time in due.runs.items()]
    left = [] if due.age_left_steps is None else [f"retraining by age in {due.age_left_steps} steps of data"]
    table.add_row("next", "; ".join([*left, *runs]) or "nothing is scheduled while nothing is up")


def _format_age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def report_feed(seen: FeedStatus) -> None:
    """The feed: what its table holds, which processes land, how far each source is."""
    console = _build_console()
    if seen.table is None:
        console.print(
            f"{seen.dataset}: no record has landed yet. `tidemill feed` or `tidemill feed drain` lands them."
        )
    else:
        _report_table(console, seen, seen.table)
    for member in seen.members:
        console.print(f"member {member.member} (process {member.pid}): {_format_member(member)}")


def _report_table(console: Console, seen: FeedStatus, table: FeedTableStatus) -> None:
    rows = ", ".join(f"{n:,} {place}" for place, n in table.rows.items()) or "no rows"
    console.print(f"{seen.dataset}: version {table.version} in {table.n_files} files; {rows}")
    window = seen.window
    console.print(
        f"window: {window.n_rows:,} rows up to {window.end.isoformat()}"
        if window
        else "window: none has closed yet"
    )
    if seen.n_gaps is not None:
        console.print(f"gaps: {seen.n_gaps:,} between bars; `tidemill feed gaps` lists them")
    sources = Table("source", "next offset", "lag", "member")
    lags = {
        source.source: (f"{source.lag:,}", member.member)
        for member in seen.members
        if member.is_alive
        for source in member.sources
    }
    for name, offset in table.marks.items():
        sources.add_row(name, f"{offset:,}", *lags.get(name, ("no process reads it", "-")))
    console.print(sources)


def _format_member(member: SeenMember) -> str:
    if member.fault:
        return f"does not land since {member.at.isoformat()}: {member.fault}"
    if not member.is_alive or member.buffer_bytes is None:
        return f"silent since {member.at.isoformat()}"
    rate = f"{member.records_per_s:,.0f} records/s, {member.buffer_bytes / 1e6:.1f} MB held"
    watermark = None if member.watermark is None else member.watermark.isoformat()
    return f"{rate}; quarantined {member.quarantine_frac:.2%}; watermark {watermark}"


def report_rows(rows: Rows) -> None:
    """A table with a column for each key, in the order in which they come."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = Table(*names)
    for row in rows:
        shown.add_row(*(_format_cell(row.get(name)) for name in names))
    _build_console().print(shown)


def _format_cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if type(value) is int else str(value)


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
    return "" if value is None else format_number(value)
