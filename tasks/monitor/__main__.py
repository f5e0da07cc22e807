"""`python -m tasks.monitor`: served forecasts and data/clean -> data/reports/monitor."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, calendar_for
from tasks.core.frames import SERIES
from tasks.edges.artifacts import file_hash, read_calendar, read_frame, read_json, replacing, write_json, write_text
from tasks.edges.door import open_door
from tasks.edges.params import read_about, read_dataset, read_params
from tasks.edges.registry import Champion as RegistryChampion
from tasks.edges.registry import champion_folder, read_champion, read_journal
from tasks.edges.served import read_served
from tasks.edges.settings import ROOT
from tasks.monitor.params import MonitorParams

ROWS = "data/clean/rows.parquet"
REPORT = "data/reports/monitor"


def main(root: Path = ROOT) -> None:
    """Report on what is new; with nothing new the last report stands."""
    dataset, params = read_dataset(root), read_params("monitor", MonitorParams, root)
    served, champion = read_served(dataset), _champion(dataset, root)
    key = {
        "dataset": dataset,
        "served": hashlib.sha256("\n".join(served["prediction_id"].unique().sort()).encode()).hexdigest(),
        "rows": file_hash(root / ROWS),
        "champion": None if champion is None else [champion["digest"], champion["trained_as_of"].isoformat()],
        "params": params.model_dump(),
    }
    path = root / REPORT / "report.json"
    report = read_json(path) if path.exists() else {}
    if report.get("key") == key:
        write_json(path, report)
        print(f"monitor: nothing new: {report['verdict']}: {report['reason']}")
        return
    report = _report(dataset, served, params, key, root)
    print(f"monitor: {report['verdict']}: {report['reason']}")


def _champion(dataset: str, root: Path) -> dict[str, Any] | None:
    """The champion as `tasks.monitor.stage.Champion` has it."""
    found = read_champion(dataset)
    if found is None:
        return None
    side = "challenger" if found.decision.get("decision") == "promote" else "opponent"
    losses = found.decision.get("mean_loss") or {}
    return {
        "digest": found.digest,
        "model": found.model,
        "version": found.version,
        "seen_until": found.seen_until,
        "trained_as_of": _trained_as_of(found, root),
        "gate_loss": losses.get(side),
    }


def _trained_as_of(champion: RegistryChampion, root: Path) -> datetime:
    """Newest data of the last training that the gate has judged: one that lost says that the champion is not out of date."""
    own = read_json(champion_folder(champion) / "manifest.json")["as_of"]
    decided = root / "data/decisions/promote/decision.json"
    last = read_json(decided).get("challenger_as_of", own) if decided.exists() else own
    return max(datetime.fromisoformat(own), datetime.fromisoformat(last))


def _report(dataset: str, served: pl.DataFrame, params: MonitorParams, key: dict[str, Any], root: Path) -> dict[str, Any]:
    from tasks.monitor.page import draw_steps, markdown, write_evidently  # noqa: PLC0415  (this and the next: a report that stands needs neither)
    from tasks.monitor.stage import Champion, monitor  # noqa: PLC0415

    rows, about, known = read_frame(root / ROWS, SERIES), read_about(root), _champion(dataset, root)
    champion = None if known is None else Champion(**known)
    seen_until = {past.digest: past.seen_until for past in read_journal(dataset)}
    watched = monitor(served, rows, about, _calendar(dataset, about, rows), champion, seen_until, params)
    report = {**watched.report, "dataset": dataset, "key": key}
    with replacing(root / REPORT) as folder:
        write_json(folder / "report.json", report)
        write_text(folder / "report.md", markdown(report))
        if report["overall"]["n_known"]:
            draw_steps(folder / "steps.png", report["by_step"], max(about.quantiles) - min(about.quantiles))
        if champion is not None and report["overall"]["n_known"] >= params.min_rows:
            write_evidently(folder / "evidently.html", watched.streams, champion.seen_until, params.sample)
    return report


def _calendar(dataset: str, about: About, rows: pl.DataFrame) -> Calendar:
    """The calendar that travels with the champion where it reaches far enough, so that no exchange library is needed; else looked up."""
    champion, times = read_champion(dataset), rows["event_time"].unique().sort()
    if champion is not None and (champion_folder(champion) / "sessions.parquet").exists():
        calendar = read_calendar(champion_folder(champion), about)
        if calendar.sessions is not None and calendar.sessions[0] <= times[0] and calendar.sessions[-1] >= times[-1]:
            return calendar
    return calendar_for(about, reach=(times[0], times[-1]))


if __name__ == "__main__":
    open_door(main)
