"""The page that a run leaves: what is forecast, how good it was, what was decided and why.

What is not there yet (a stage that has not run) is left out and named.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from deployments.console.charts.forecast import STEPS_SHOWN, draw_errors, draw_fan, draw_history
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
from deployments.console.pages.ensemble import SERIES_SHOWN, SUMMARY, render_coverage, render_ensemble
from tasks.core.frames import FORECAST, SERIES, format_quantile_columns
from tasks.core.reports.explain import ExplainSummary
from tasks.core.reports.ingest import IngestLedger
from tasks.core.reports.promote import GateDecision
from tasks.core.reports.quantize import QuantizeDecision
from tasks.core.reports.validate import ValidationSummary
from tasks.edges.artifacts import read_frame, read_json, read_report
from tasks.edges.params import read_about, read_dataset, read_models

NEXT = (
    ("make up", "keeps the service, Prefect, MLflow and a worker running and prints their addresses"),
    (
        "tidemill new mine --csv FILE",
        "looks into your own file and writes a dataset entry that runs as it is",
    ),
    ("tidemill status", "what is champion, as of when, and what was decided last"),
)
_GATE_ROWS = "data/reports/ensemble/gate.parquet"
_FEATURES = "data/features/table.parquet"
_CLEAN = "data/clean/rows.parquet"


class RunSection(NamedTuple):
    """A part of the page. needs: what it reads, from the root."""

    title: str
    render: Callable[[Path], Markup]
    needs: tuple[str, ...]


def render_run(root: Path, others: Mapping[str, str]) -> str:
    """The page. others: file name -> title of the pages next to it."""
    dataset = read_dataset(root)
    commands = [join_parts(render_element("code", command), f" {why}") for command, why in NEXT]
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
    missing = list_missing(section.needs, root)
    body = (
        render_element("p", f"Not there yet: {', '.join(missing)}.", "none")
        if missing
        else section.render(root)
    )
    return render_section(section.title, body)


def _render_forecast(root: Path) -> Markup:
    """The newest forecasts, as fans that continue the actual values."""
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
    summary = read_json(root / SUMMARY)
    table = pl.read_parquet(root / _FEATURES, columns=["series_id", "event_time", "y"])
    ids = table["series_id"].unique().sort().to_list()[:SERIES_SHOWN]
    fits = {
        model: read_json(path)["folds"]
        for model in sorted(read_models(root))
        if (path := root / "models/fits" / model / "fit.json").exists()
    }
    folds = max(fits.values(), key=len)
    refits = pl.Series([fold["fit_at"] for fold in folds]).str.to_datetime(time_zone="UTC")
    gate_from = pl.Series([summary["seen_until"]]).str.to_datetime(time_zone="UTC")[0]
    facts = {
        "cutoffs scored": summary["n_cutoffs_scored"],
        "scored from": summary["scored_from"][0],
        "refits": ", ".join(f"{model} {len(own)}" for model, own in fits.items()),
        "gate's rows": f"{summary['n_cutoffs_gate']} cutoffs after {summary['seen_until'][:10]}",
    }
    image = draw_history(table, ids, refits, gate_from, read_about(root))
    return join_parts(render_image(image), render_facts(facts))


def _render_models(root: Path) -> Markup:
    """Every model's error next to the baselines'."""
    summary = read_json(root / SUMMARY)
    score, scores, baseline = summary["primary_score"], summary["scores"], summary["baseline"]
    versus, best = summary.get("comparisons", {}), summary["confidence_set"]
    errors = {name: scores[name]["primary"] for name in sorted(scores, key=lambda n: scores[n]["primary"])}
    rows = [
        {
            "model": name,
            score: error,
            f"against {baseline}": f"{100 * (error / errors[baseline] - 1):+.1f} %",
            "on the gate": scores[name]["primary_gate"],
            "ensemble is better by": (
                f"{100 * versus[name]['gain_frac']:+.1f} %, p = {versus[name]['p']:.2g}"
                if name in versus
                else ""
            ),
            "Diebold-Mariano p": versus.get(name, {}).get("p_diebold_mariano", ""),
            "may be the best": (
                ""
                if best is None
                else f"{'yes' if name in best['members'] else 'no'}, p = {best['p'][name]:.2g}"
            ),
            "outcomes": f"{scores[name]['n']:,}"
            + (" of its own: too few to be compared" if name in summary["left_out"] else ""),
            "mae": scores[name]["mae"],
            "rmse": scores[name]["rmse"],
            **{f"{score} {s}": v for s, v in list(scores[name]["by_series"].items())[:SERIES_SHOWN]},
        }
        for name, error in errors.items()
    ]
    label = f"{score}, mean over {summary['n_cutoffs_scored']} cutoffs; lower is better"
    return join_parts(render_image(draw_errors(errors, baseline, "ensemble", label)), render_table(rows))


def _render_explanation(root: Path) -> Markup:
    """What the shipped forecast depends on."""
    return join_parts(*map(render_image, draw_explain_charts(root)))


def _render_int8(root: Path) -> Markup:
    """INT8 or FP32, with the figures."""
    return render_facts(read_report(root / QuantizeDecision.PATH, QuantizeDecision).list_figures())


def _render_gate(root: Path) -> Markup:
    """What promote decided, and why."""
    decision = read_report(root / GateDecision.PATH, GateDecision)
    return join_parts(
        render_element("p", f"{decision.decision}: {decision.reason}", "verdict"),
        *map(render_image, draw_promote_charts(root)),
        render_facts(decision.list_figures()),
    )


def _render_rows(root: Path) -> Markup:
    """Rows received, kept, quarantined, repeated."""
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
    RunSection("History, folds and cutoffs", _render_walk_forward, (SUMMARY, _FEATURES)),
    RunSection("Every model and the baselines", _render_models, (SUMMARY,)),
    RunSection("The ensemble", render_ensemble, (SUMMARY,)),
    RunSection("Coverage of the interval", render_coverage, (SUMMARY,)),
    RunSection("What the forecast depends on", _render_explanation, (ExplainSummary.PATH,)),
    RunSection("INT8 or FP32", _render_int8, (QuantizeDecision.PATH,)),
    RunSection("The gate", _render_gate, (GateDecision.PATH,)),
    RunSection("Rows", _render_rows, (ValidationSummary.PATH, IngestLedger.PATH, _CLEAN)),
)
