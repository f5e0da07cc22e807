"""`python -m tasks.monitor`: the champion, data/clean and served forecasts ->
data/reports/monitor.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, build_calendar
from tasks.core.frames import FORECAST, SERIES
from tasks.core.kinds import get_kind
from tasks.edges.artifacts import (
    compute_file_hash,
    read_calendar,
    read_frame,
    read_json,
    write_folder,
    write_json,
    write_text,
)
from tasks.edges.current import check_current, read_json_of_dataset
from tasks.edges.door import run_stage_command
from tasks.edges.params import ParamsDocument, read_document
from tasks.edges.registry import ChampionRecord, get_champion_folder, read_champion, read_journal
from tasks.edges.served import count_served, read_news
from tasks.edges.settings import ROOT
from tasks.monitor.params import MonitorParams

ROWS = "data/clean/rows.parquet"
REPORT = "data/reports/monitor"
_KEY = ("digest", "promoted_as_of", "trained_as_of")


def main(root: Path = ROOT) -> None:
    """Report on what is new; with nothing new the last report stands.

    New answers alone change no figure that decides.
    """
    document = read_document(root)
    dataset, params = document.dataset, document.parse_stage("monitor", MonitorParams)
    check_current(ROWS, dataset, root)
    champion = read_champion(dataset)  # once: a promotion meanwhile must not mix two champions' figures
    facts = None if champion is None else _build_champion_facts(champion, root)
    key = {
        "dataset": dataset,
        "rows": compute_file_hash(root / ROWS),
        "champion": (
            None if facts is None else [facts[k] if k == "digest" else facts[k].isoformat() for k in _KEY]
        ),
        "params": params.model_dump(),
    }
    path, answers = root / REPORT / "report.json", count_served(dataset)
    last = read_json(path) if path.exists() else {}
    if last.get("key") == key and last["served"]["answers"] == answers:
        write_json(path, last)
        print(f"monitor: nothing new: {last['verdict']}: {last['reason']}")
        return
    report = (
        _update_served(last, document, champion, answers, root)
        if last.get("key") == key
        else _build_report(document, champion, facts, answers, params, key, root)
    )
    print(f"monitor: {report['verdict']}: {report['reason']}")


def _build_champion_facts(champion: ChampionRecord, root: Path) -> dict[str, Any]:
    """The champion as `tasks.monitor.stage.MonitoredChampion` has it."""
    side = "challenger" if champion.decision.get("decision") == "promote" else "opponent"
    losses = champion.decision.get("mean_loss") or {}
    return {
        "digest": champion.digest,
        "model": champion.model,
        "version": champion.version,
        "seen_until": champion.seen_until,
        "promoted_as_of": champion.promoted_as_of,
        "trained_as_of": _read_trained_as_of(champion, root),
        "gate_loss": losses.get(side),
    }


def _read_trained_as_of(champion: ChampionRecord, root: Path) -> datetime:
    """Newest data of the last training that the gate has judged: one that lost says that the
    champion is not out of date.
    """
    own = read_json(get_champion_folder(champion) / "manifest.json")["as_of"]
    last = read_json_of_dataset(root / "data/decisions/promote/decision.json", champion.dataset).get(
        "challenger_as_of", own
    )
    return max(datetime.fromisoformat(own), datetime.fromisoformat(last))


def _build_report(
    document: ParamsDocument,
    champion: ChampionRecord | None,
    facts: dict[str, Any] | None,
    answers: dict[str, int],
    params: MonitorParams,
    key: dict[str, Any],
    root: Path,
) -> dict[str, Any]:
    # This and the next: a report that stands needs neither
    from tasks.monitor.page import draw_steps, render_markdown, write_evidently
    from tasks.monitor.stage import MonitoredChampion, build_monitor_report

    rows, about = read_frame(root / ROWS, SERIES), document.about
    monitored = None if facts is None else MonitoredChampion(**facts)
    calendar = _build_calendar(champion, about, rows)
    scheduled = _build_scheduled(champion, rows, calendar, params)
    watched = build_monitor_report(scheduled, rows, about, calendar, monitored, params)
    report = {
        **watched.report,
        "served": _build_served(document.dataset, champion, answers, rows, about, calendar),
        "dataset": document.dataset,
        "key": key,
    }
    with write_folder(root / REPORT) as folder:
        write_json(folder / "report.json", report)
        write_text(folder / "report.md", render_markdown(report))
        if report["overall"]["n_known"]:
            draw_steps(folder / "steps.png", report["by_step"], get_kind(about.target).get_level(about))
        if monitored is not None and report["overall"]["n_known"] >= params.min_rows:
            write_evidently(folder / "evidently.html", watched.streams, monitored.seen_until, params.sample)
    return report


def _update_served(
    last: dict[str, Any],
    document: ParamsDocument,
    champion: ChampionRecord | None,
    answers: dict[str, int],
    root: Path,
) -> dict[str, Any]:
    """The last report with what was served since; what decides stands as it is."""
    from tasks.monitor.page import render_markdown

    rows, about = read_frame(root / ROWS, SERIES), document.about
    calendar = _build_calendar(champion, about, rows)
    report = {**last, "served": _build_served(document.dataset, champion, answers, rows, about, calendar)}
    write_json(root / REPORT / "report.json", report)
    write_text(root / REPORT / "report.md", render_markdown(report))
    return report


def _build_scheduled(
    champion: ChampionRecord | None, rows: pl.DataFrame, calendar: Calendar, params: MonitorParams
) -> pl.DataFrame:
    """The champion's own forecasts since its promotion; without a row that came since, without
    loading it.
    """
    from tasks.monitor.scheduled import build_forecasts, select_cutoffs

    cutoffs = (
        []
        if champion is None
        else select_cutoffs(rows, calendar, champion.promoted_as_of, params.max_cutoffs)
    )
    if champion is None or not cutoffs:
        return pl.DataFrame(schema={**FORECAST.columns, "digest": pl.String})
    from tasks.release import load_release

    return build_forecasts(load_release(get_champion_folder(champion)), champion.digest, rows, cutoffs)


def _build_served(
    dataset: str,
    champion: ChampionRecord | None,
    answers: dict[str, int],
    rows: pl.DataFrame,
    about: About,
    calendar: Calendar,
) -> dict[str, Any]:
    """What was answered, for information: counts, and the outcomes of answers from the newest
    rows, by release.
    """
    from tasks.monitor.outcome import build_outcomes, compute_figures

    seen_until = {past.digest: past.seen_until for past in read_journal(dataset)}
    news = read_news(dataset, min(seen_until.values(), default=datetime.max.replace(tzinfo=UTC)))
    found = build_outcomes(news, rows, about, calendar, seen_until)
    own = found.filter(pl.col("digest") == (champion.digest if champion else ""))
    return {
        "answers": answers,
        "overall": compute_figures(own, [])[0],
        "by_digest": compute_figures(found, ["digest"]),
    }


def _build_calendar(champion: ChampionRecord | None, about: About, rows: pl.DataFrame) -> Calendar:
    """The calendar that travels with the champion where it reaches far enough, so that no
    exchange library is needed; else looked up.
    """
    times = rows["event_time"].unique().sort()
    if champion is not None and (get_champion_folder(champion) / "sessions.parquet").exists():
        calendar = read_calendar(get_champion_folder(champion), about)
        if (
            calendar.sessions is not None
            and calendar.sessions[0] <= times[0]
            and calendar.sessions[-1] >= times[-1]
        ):
            return calendar
    return build_calendar(about, reach=(times[0], times[-1]))


if __name__ == "__main__":
    run_stage_command(main)
