"""`python -m tasks.monitor`: champion, published rows, served forecasts -> data/reports/monitor."""

import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, build_calendar
from tasks.core.frames import FORECAST, SERIES
from tasks.core.reports.monitor import (
    AnswerCounts,
    MonitorKey,
    MonitorReport,
    OutcomeFigures,
    ReleaseOutcomes,
    ServedFigures,
)
from tasks.core.reports.retrain import RetrainLimits
from tasks.core.sketch import REFERENCE, Sketch, parse_reference
from tasks.edges.artifacts import read_calendar, read_last_report, scan_frame, write_folder, write_report
from tasks.edges.champions import ChampionRecord
from tasks.edges.command import run_stage_command
from tasks.edges.current import find_rows
from tasks.edges.objectives import read_objectives, read_targets
from tasks.edges.params import ParamsDocument, read_document
from tasks.edges.registry import get_champion_folder, get_monitored_path, read_champion, read_journal
from tasks.edges.served import count_served, read_news
from tasks.edges.served_retention import move_old_answers
from tasks.edges.settings import ROOT
from tasks.monitor.champion import MonitoredChampion, build_key, read_monitored_champion
from tasks.monitor.params import MonitorParams
from tasks.monitor.rows import RowsSpan, compute_span, find_ends


def main(root: Path = ROOT) -> None:
    """Report on what is new; with nothing new the last report stays.

    Old answers leave the store first. New served forecasts alone change no figure that decides.
    """
    document = read_document(root)
    dataset, params = document.dataset, document.parse_stage("monitor", MonitorParams)
    limits = _read_limits(document)
    path = find_rows(dataset, root)
    champion = read_champion(dataset)  # once: a promotion meanwhile must not mix two champions' figures
    monitored = None if champion is None else read_monitored_champion(champion, root)
    key = build_key(dataset, path, monitored, params, limits)
    move_old_answers(dataset, datetime.now(UTC))
    answers = AnswerCounts(**count_served(dataset))
    objectives = read_objectives(dataset, read_targets(document), time.time())
    last = read_last_report(root / MonitorReport.PATH, MonitorReport)
    if last is not None and last.key == key:
        if last.served.answers == answers:
            _write(last.model_copy(update={"objectives": objectives}), champion, root)
            print(f"monitor: nothing new: {last.verdict}: {last.reason}")
            return
        report = _update_served(last, document, champion, answers, path)
    else:
        report = _build_report(document, champion, monitored, answers, params, limits, key, path, root)
    _write(report.model_copy(update={"objectives": objectives}), champion, root)
    print(f"monitor: {report.verdict}: {report.reason}")


def _write(report: MonitorReport, champion: ChampionRecord | None, root: Path) -> None:
    """Write it for the stages, and for the service, which reads nothing of the checkout."""
    write_report(root / MonitorReport.PATH, report)
    if champion is not None:
        write_report(get_monitored_path(report.dataset, champion.digest), report)


def _build_report(
    document: ParamsDocument,
    champion: ChampionRecord | None,
    monitored: MonitoredChampion | None,
    answers: AnswerCounts,
    params: MonitorParams,
    limits: RetrainLimits,
    key: MonitorKey,
    path: Path,
    root: Path,
) -> MonitorReport:
    # This and the next: a report that stays needs neither
    from tasks.monitor.stage import build_monitor_result
    from tasks.monitor.streams import list_unwatched

    rows, about = scan_frame(path, SERIES), document.about
    calendar = _build_calendar(champion, about, rows)
    span = compute_span(rows, about, calendar)
    scheduled = _build_scheduled(champion, rows, span, calendar, params)
    served = _build_served(key.dataset, champion, answers, rows, span, about, calendar)
    unwatched = list_unwatched(rows.collect_schema(), _list_known_columns(champion))
    report, shown = build_monitor_result(
        scheduled,
        rows,
        about,
        calendar,
        monitored,
        params,
        limits,
        served,
        key,
        unwatched,
        _read_sketches(champion),
    )
    with write_folder((root / MonitorReport.PATH).parent) as folder:
        write_report(folder / "report.json", report)
        if report.overall.n_known >= params.min_rows and shown.width > 1:
            shown.write_parquet(folder / "streams.parquet")
    return report


def _read_sketches(champion: ChampionRecord | None) -> dict[str, Sketch]:
    """The reference that was saved with the release; a release of before has none."""
    if champion is None or not (path := get_champion_folder(champion) / REFERENCE).exists():
        return {}
    return parse_reference(pl.read_parquet(path))


def _list_known_columns(champion: ChampionRecord | None) -> list[str]:
    """Columns of the rows that the champion carries."""
    if champion is None:
        return []
    return list(pl.read_parquet_schema(get_champion_folder(champion) / "rows.parquet"))


def _read_limits(document: ParamsDocument) -> RetrainLimits:
    """The two limits of the section `retrain`: one number decides here and there."""
    from tasks.retrain.params import RetrainParams

    params = document.parse_stage("retrain", RetrainParams)
    return RetrainLimits(**{name: getattr(params, name) for name in RetrainLimits.model_fields})


def _update_served(
    last: MonitorReport,
    document: ParamsDocument,
    champion: ChampionRecord | None,
    answers: AnswerCounts,
    path: Path,
) -> MonitorReport:
    """The last report with what was served since; what decides stays as it is."""
    rows, about = scan_frame(path, SERIES), document.about
    calendar = _build_calendar(champion, about, rows)
    span = compute_span(rows, about, calendar)
    served = _build_served(last.dataset, champion, answers, rows, span, about, calendar)
    return last.model_copy(update={"served": served})


def _build_scheduled(
    champion: ChampionRecord | None,
    rows: pl.LazyFrame,
    span: RowsSpan,
    calendar: Calendar,
    params: MonitorParams,
) -> pl.DataFrame:
    """The champion's own forecasts since its promotion, and as many of the gate's rows before it.

    With many series those of the newest cutoffs alone. The release is loaded only when there is a
    cutoff since then.
    """
    from tasks.monitor.scheduled import build_forecasts, count_max_cutoffs, select_cutoffs

    cutoffs = (
        []
        if champion is None
        else select_cutoffs(span, calendar, champion.promoted_as_of, params.max_cutoffs)
    )
    if champion is None or not cutoffs:
        return pl.DataFrame(schema={**FORECAST.columns, "digest": pl.String})
    from tasks.release import load_release

    before = select_cutoffs(span, calendar, champion.seen_until, params.max_cutoffs, champion.promoted_as_of)
    release = load_release(get_champion_folder(champion))
    newest = [*before, *cutoffs][-count_max_cutoffs(release, len(span.series_ids)) :]
    return build_forecasts(release, champion.digest, rows, newest)


def _build_served(
    dataset: str,
    champion: ChampionRecord | None,
    answers: AnswerCounts,
    rows: pl.LazyFrame,
    span: RowsSpan,
    about: About,
    calendar: Calendar,
) -> ServedFigures:
    """What was served, for information.

    Counts, and by release the outcomes of forecasts from the newest rows.
    """
    from tasks.monitor.outcome import compute_figures, join_outcomes

    seen_until = {past.digest: past.seen_until for past in read_journal(dataset)}
    news = read_news(dataset, min(seen_until.values(), default=datetime.max.replace(tzinfo=UTC)))
    outcomes = join_outcomes(news, rows, span, about, calendar, seen_until)
    of_champion = outcomes.filter(pl.col("digest") == (champion.digest if champion else ""))
    return ServedFigures(
        answers=answers,
        overall=OutcomeFigures.model_validate(compute_figures(of_champion, [])[0]),
        by_digest=tuple(ReleaseOutcomes.model_validate(row) for row in compute_figures(outcomes, ["digest"])),
    )


def _build_calendar(champion: ChampionRecord | None, about: About, rows: pl.LazyFrame) -> Calendar:
    """The champion's calendar where it covers all rows, so that no exchange library is needed.

    Otherwise one from the library.
    """
    first, last = find_ends(rows)
    if champion is not None and (get_champion_folder(champion) / "sessions.parquet").exists():
        calendar = read_calendar(get_champion_folder(champion), about)
        if calendar.sessions is not None and calendar.sessions[0] <= first and calendar.sessions[-1] >= last:
            return calendar
    return build_calendar(about, reach=(first, last))


if __name__ == "__main__":
    run_stage_command(main)
