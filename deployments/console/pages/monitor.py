"""The monitor's page: the champion's error and coverage, served forecasts, drift of the inputs.

Evidently's page of the inputs is a second page.
"""

import warnings
from pathlib import Path

import polars as pl

from deployments.console.charts.monitor import draw_alarm, name_level
from deployments.console.charts.stages import draw_monitor_charts
from deployments.console.html import (
    Markup,
    render_element,
    render_image,
    render_link,
    render_list,
    render_page,
    render_section,
    render_table,
    render_text,
)
from tasks.core.reports.monitor import (
    DriftFigures,
    MonitorReport,
    ServedFigures,
    ServiceLevel,
    StreamAlarm,
)
from tasks.edges.artifacts import read_report

STREAMS = "data/reports/monitor/streams.parquet"
EVIDENTLY = "evidently.html"
_COLUMNS = ("step", "n_known", "n_open", "n_late", "n_corrected", "loss", "mae", "bias", "coverage_frac")


def list_inputs(_: Path) -> list[str]:
    """Paths of the page's inputs, relative to the root."""
    return [MonitorReport.PATH]


def render_monitor(root: Path) -> str:
    """The monitor's report as a page."""
    report = read_report(root / MonitorReport.PATH, MonitorReport)
    as_of = f"As of {report.as_of.isoformat()}: {report.reason}."
    evidently = (
        [render_element("p", render_link(EVIDENTLY, "Evidently's page of the inputs"))]
        if (root / STREAMS).exists()
        else []
    )
    return render_page(
        f"monitor: {report.dataset}",
        render_element("h1", f"Monitor: {report.verdict}"),
        render_element("p", as_of, "lead"),
        *_render_own_forecasts(report, root),
        _render_served(report.served),
        *([] if report.drift is None else [_render_drift(report.drift)]),
        *evidently,
    )


def _render_own_forecasts(report: MonitorReport, root: Path) -> list[Markup]:
    if not report.by_step:
        return []
    rows = [{name: _hide_unknown(getattr(row, name)) for name in _COLUMNS} for row in report.by_step]
    note = (
        f"Loss is {report.primary_score}; n_open steps wait for their outcome. Forecasts of every series at"
        " every cutoff since the promotion."
    )
    images = map(render_image, draw_monitor_charts(root))
    levels = [_describe_level(level) for level in report.service_levels]
    parts = (render_table(rows), render_element("p", note, "none"), *_render_lines(levels), *images)
    return [render_section("The champion's own forecasts", *parts)]


def _describe_level(level: ServiceLevel) -> str:
    name = name_level(level)
    if level.unwatched is not None and level.direction is None:
        return f"{name}: not watched, {level.unwatched}"
    if level.since is None or level.alarm_at is None:
        state = "no alarm"
    else:
        state = f"{level.direction} since {level.since.isoformat()}, alarm on {level.alarm_at.isoformat()}"
    if not level.points or level.band_low is None:
        return f"{name}: {state}; no block of outcomes is complete"
    return (
        f"{name}: {state}; {level.points[-1].value:.4g} over the last {level.window_steps} steps of outcomes,"
        f" {level.band_low:.4g} to {level.band_high:.4g} is usual (statistic {level.statistic:.2f}, limit"
        f" {level.limit:.2f})"
    )


def _hide_unknown(value: object) -> object:
    return "" if value is None else value


def _render_served(served: ServedFigures) -> Markup:
    """What was served, for information: callers choose it, so it decides nothing."""
    counts, figures = served.answers, served.overall
    counted = (
        f"{counts.n_answers} answers: {counts.n_news} from the newest rows, {counts.n_as_of} as of a time"
        f" asked for, {counts.n_own_history} from own rows, {counts.n_unmarked} of an older version. They"
        " decide nothing."
    )
    judged = (
        f"The champion's answers from the newest rows: loss {figures.loss:.4g} over {figures.n_known} steps"
        f" with an outcome, {figures.n_open} are open."
        if figures.n_known
        else ""
    )
    return render_section("Served", *(render_element("p", text) for text in (counted, judged) if text))


def _render_drift(drift: DriftFigures) -> Markup:
    summary = (
        f"Reference until {drift.reference_until.isoformat()}; {drift.n_blocks} blocks of"
        f" {drift.block_steps} steps since, with a season of {drift.season_steps} steps taken out. The alarm"
        f" of {drift.n_alarmed} of {drift.n_streams} streams is open. With a budget of"
        f" {drift.alarms_per_30_days:g} false alarms per stream and 30 days it is {drift.n_expected:.2g} by"
        f" chance on average, {drift.n_by_luck} at most."
    )
    alarms = [alarm for alarm in drift.streams if alarm.alarm_at is not None]
    absent = [f"{stream.stream}: {stream.reason}" for stream in drift.unwatched]
    parts = [render_element("p", summary)]
    if drift.note is not None:
        parts.append(render_element("p", f"Note: {drift.note}."))
    if alarms:
        parts.append(render_table([_list_cells(alarm) for alarm in alarms]))
        parts += _render_lines(list(dict.fromkeys(f"{a.detector}: {a.advice}" for a in alarms)))
        parts += [render_image(draw_alarm(alarm)) for alarm in alarms if alarm.points]
    if absent:
        parts.append(render_element("p", f"{drift.n_unwatched} streams are not watched:"))
    return render_section("Drift of the inputs", *parts, *_render_lines(absent))


def _list_cells(alarm: StreamAlarm) -> dict[str, object]:
    """A row of the ranking: the strongest alarm is first."""
    figures = {
        name: "" if (value := getattr(alarm, name)) is None else f"{value:.4g}"
        for name in ("before", "now", "size_sd", "psi", "js", "wasserstein_sd", "loss_ratio")
    }
    detectors = ", ".join([alarm.detector, *alarm.also])
    since = "" if alarm.since is None else f"{alarm.since:%F %R}"
    return {"stream": alarm.stream, "detectors": detectors, "since": since, **figures}


def _render_lines(lines: list[str]) -> list[Markup]:
    return [render_list(list(map(render_text, lines)))] if lines else []


def write_evidently(root: Path, path: Path) -> None:
    """Write Evidently's page on the watched values before and after the end of training data.

    It is for people to look at, not for alarms: its default rule reports drift of a stationary
    seasonal stream each day.
    """
    report = read_report(root / MonitorReport.PATH, MonitorReport)
    streams = pl.read_parquet(root / STREAMS)
    assert report.champion is not None, "streams are written for a champion"
    since = pl.col("event_time") >= report.champion.seen_until
    before, after = (streams.filter(mask).drop("event_time") for mask in (~since, since))
    with warnings.catch_warnings():
        # Evidently's own dependencies warn on import; Tidemill cannot fix that
        warnings.simplefilter("ignore")
        from evidently import Dataset, Report
        from evidently.presets import DataDriftPreset

        reference, current = (Dataset.from_pandas(part.to_pandas()) for part in (before, after))
        Report([DataDriftPreset()]).run(current, reference).save_html(str(path))
