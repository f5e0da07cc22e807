"""The page of a run: its forecasts, their errors, the decisions and their reasons.

Sections of stages that have not run name the missing files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from deployments.console.charts.forecast import STEPS_SHOWN, draw_fan, draw_history
from deployments.console.charts.stages import draw_explain_charts, draw_promote_charts
from deployments.console.html import (
    Markup,
    join_parts,
    render_details,
    render_element,
    render_facts,
    render_image,
    render_link,
    render_list,
    render_page,
    render_section,
    render_table,
)
from deployments.console.inputs import list_missing
from deployments.console.pages.ensemble import SERIES_SHOWN, render_coverage, render_ensemble, render_models
from deployments.console.pages.training import get_path_of_model
from tasks.core.errors import FrameError
from tasks.core.frames import FORECAST, SERIES, format_quantile_columns
from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.explain import ExplainSummary
from tasks.core.reports.ingest import IngestLedger
from tasks.core.reports.promote import GateDecision
from tasks.core.reports.quantize import QuantizeDecision, QuantizeLatency
from tasks.core.reports.train import FitReport
from tasks.core.reports.validate import ValidationSummary
from tasks.edges.artifacts import read_frame, read_report
from tasks.edges.params import read_about, read_dataset, read_document

NEXT = (
    ("make up", "keeps the service, Prefect, MLflow and a worker running and prints their addresses"),
    (
        "tidemill new mine --csv FILE",
        "inspects your own file and writes a dataset entry that runs as it is",
    ),
    ("tidemill status", "shows the champion, its age, and the last decisions"),
)
_GATE_ROWS = "data/reports/ensemble/gate.parquet"
_FEATURES = "data/features/table.parquet"
_CLEAN = "data/clean/rows.parquet"


class RunSection(NamedTuple):
    """A section of the page. needs: paths of its inputs, relative to the root."""

    title: str
    render: Callable[[Path], Markup]
    needs: tuple[str, ...]


def render_run(root: Path, others: Mapping[str, str]) -> str:
    """The page. others: file name -> title of the other pages."""
    dataset = read_dataset(root)
    commands = [join_parts(render_element("code", command), f" {purpose}") for command, purpose in NEXT]
    links = [render_link(name, title) for name, title in others.items()]
    return render_page(
        f"Tidemill: {dataset}",
        render_element("h1", dataset),
        render_element("p", read_about(root).description, "lead"),
        *(_render_section(section, root) for section in SECTIONS),
        *([render_section("More", render_list(links, "next"))] if links else []),
        render_section("Next", render_list(commands, "next")),
    )


def _render_section(section: RunSection, root: Path) -> Markup:
    if missing := list_missing(section.needs, root):
        body = render_element("p", f"Not there yet: {', '.join(missing)}.", "none")
    else:
        try:
            body = section.render(root)
        except FrameError as error:  # a file of another version
            body = render_element("p", str(error), "none")
    return render_section(section.title, body)


def _render_forecast(root: Path) -> Markup:
    """The newest forecasts, each after its series' actual values."""
    about = read_about(root)
    gate = read_frame(root / _GATE_ROWS, FORECAST)
    newest = gate.filter(pl.col("cutoff") == gate["cutoff"].max())
    ids = newest["series_id"].unique().sort().to_list()
    shown = ids[:SERIES_SHOWN]
    table = newest.filter(pl.col("series_id").is_in(shown)).select(
        "series_id", "event_time", "y_hat", *format_quantile_columns(about.quantiles)
    )
    note = (
        f"Each step's first forecast over the last {STEPS_SHOWN} rows of the gate, which no fit has seen,"
        f" and the newest cutoff's whole horizon. Unit: {about.target.unit}."
    )
    more = [f"{len(ids) - SERIES_SHOWN} more series are in {_GATE_ROWS}."] if len(ids) > SERIES_SHOWN else []
    return join_parts(
        render_element("p", note),
        *(render_image(draw_fan(gate, series, about)) for series in shown),
        *(render_element("p", sentence) for sentence in more),
        render_details("The newest forecast as a table", render_table(table.to_dicts())),
    )


def _render_walk_forward(root: Path) -> Markup:
    """All of history with the refits, the scored cutoffs and the gate."""
    report = read_report(root / EnsembleReport.PATH, EnsembleReport)
    table = pl.read_parquet(root / _FEATURES, columns=["series_id", "event_time", "y"])
    ids = table["series_id"].unique().sort().to_list()[:SERIES_SHOWN]
    paths = {
        model: root / get_path_of_model(FitReport, model)
        for model in sorted(read_document(root).list_models())
    }
    folds = {model: read_report(path, FitReport).folds for model, path in paths.items() if path.exists()}
    refits = pl.Series([fold.fit_at for fold in max(folds.values(), key=len)])
    facts = {
        "cutoffs scored": report.n_cutoffs_scored,
        "scored from": report.scored_from[0],
        "refits": ", ".join(f"{model} {len(fitted)}" for model, fitted in folds.items()),
        "gate's rows": f"{report.n_cutoffs_gate} cutoffs after {report.seen_until:%F}",
    }
    image = draw_history(table, ids, refits, report.seen_until, read_about(root))
    return join_parts(render_image(image), render_facts(facts))


def _render_explanation(root: Path) -> Markup:
    """The features that the shipped forecast depends on."""
    return join_parts(*map(render_image, draw_explain_charts(root)))


def _render_int8(root: Path) -> Markup:
    """INT8 or FP32, with the figures of each form of each net."""
    decision = read_report(root / QuantizeDecision.PATH, QuantizeDecision)
    table = decision.build_table(read_report(root / QuantizeLatency.PATH, QuantizeLatency))
    return join_parts(
        render_element("p", f"{decision.decision}: {decision.reason}", "verdict"),
        *([render_table(table)] if table else []),
    )


def _render_gate(root: Path) -> Markup:
    """What promote decided, and why."""
    decision = read_report(root / GateDecision.PATH, GateDecision)
    return join_parts(
        render_element("p", f"{decision.decision}: {decision.reason}", "verdict"),
        *map(render_image, draw_promote_charts(root)),
        render_facts(decision.list_figures()),
    )


def _render_rows(root: Path) -> Markup:
    """Counts of rows: received, clean, quarantined, repeated."""
    summary = read_report(root / ValidationSummary.PATH, ValidationSummary)
    ledger = read_report(root / IngestLedger.PATH, IngestLedger)
    spans = (
        read_frame(root / _CLEAN, SERIES)
        .group_by("series_id")
        .agg(rows=pl.len(), first=pl.col("event_time").min(), last=pl.col("event_time").max())
        .sort("series_id")
    )
    files = [file.model_dump(exclude={"columns"}) for file in ledger.files]
    return join_parts(
        render_facts(summary.list_figures()),
        render_table(spans.head(20).to_dicts()),
        render_details("Ledger of files", render_table(files)),
    )


SECTIONS = (
    RunSection("Forecast", _render_forecast, (_GATE_ROWS,)),
    RunSection("History, folds and cutoffs", _render_walk_forward, (EnsembleReport.PATH, _FEATURES)),
    RunSection("Every model and the baselines", render_models, (EnsembleReport.PATH,)),
    RunSection("The ensemble", render_ensemble, (EnsembleReport.PATH,)),
    RunSection("Coverage of the interval", render_coverage, (EnsembleReport.PATH,)),
    RunSection("What the forecast depends on", _render_explanation, (ExplainSummary.PATH,)),
    RunSection("INT8 or FP32", _render_int8, (QuantizeDecision.PATH, QuantizeLatency.PATH)),
    RunSection("The gate", _render_gate, (GateDecision.PATH,)),
    RunSection("Rows", _render_rows, (ValidationSummary.PATH, IngestLedger.PATH, _CLEAN)),
)
