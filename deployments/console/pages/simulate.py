"""The page of a simulation: policies side by side, their error over time, each training."""

from pathlib import Path

import polars as pl

from deployments.console.charts.simulate import draw_policies
from deployments.console.html import (
    Image,
    Markup,
    render_details,
    render_element,
    render_image,
    render_page,
    render_section,
    render_table,
)
from tasks.core.reports.simulate import PolicyResult, SimulationReport
from tasks.edges.artifacts import write_text
from tasks.simulate.stage import get_simulation_folder

PAGE = "report.html"


def write_simulation_page(report: SimulationReport) -> Path:
    """Write the page next to the report's files; returns its path."""
    page = get_simulation_folder(report.dataset) / PAGE
    write_text(page, render_simulation(report, _read_losses(report)))
    return page


def draw_simulation(report: SimulationReport) -> Image:
    """The page's chart."""
    return draw_policies(report, _read_losses(report))


def _read_losses(report: SimulationReport) -> pl.DataFrame:
    return pl.read_parquet(get_simulation_folder(report.dataset) / "losses.parquet")


def render_simulation(report: SimulationReport, losses: pl.DataFrame) -> str:
    """The page. losses: policy, cutoff, loss, coverage_frac."""
    span = (
        f"{report.dataset}, {report.n_steps} steps from {report.since:%F} to {report.as_of:%F}, a look at the"
        f" champion every {report.every_steps} steps. All policies are compared on the same cutoffs."
    )
    return render_page(
        f"simulate: {report.dataset}",
        render_element("h1", "Policies of retraining"),
        render_element("p", span, "lead"),
        render_element("p", report.conclusion, "verdict"),
        render_table([_build_row(result) for result in report.policies]),
        render_image(draw_policies(report, losses)),
        render_section("By year", render_table(_build_year_rows(report))),
        render_section("Trainings", *(_render_trainings(result) for result in report.policies)),
    )


def _build_row(result: PolicyResult) -> dict[str, object]:
    return {
        "policy": result.policy,
        "loss": result.loss,
        "mae": result.mae,
        "coverage": result.coverage_frac,
        "drift alarms": result.n_drift_alarms,
        "trainings wanted": result.n_due,
        "trainings": result.n_retrainings,
        "promotions": result.n_promotions,
        "CPU s": result.compute_s,
    }


def _build_year_rows(report: SimulationReport) -> list[dict[str, object]]:
    """A row a year: loss and coverage of each policy."""
    years = sorted({row.year for result in report.policies for row in result.by_year})
    by_key = {(result.policy, row.year): row for result in report.policies for row in result.by_year}
    rows: list[dict[str, object]] = []
    for year in years:
        row: dict[str, object] = {"year": year}
        for result in report.policies:
            figures = by_key.get((result.policy, year))
            row[f"loss {result.policy}"] = None if figures is None else figures.loss
            row[f"coverage {result.policy}"] = None if figures is None else figures.coverage_frac
        rows.append(row)
    return rows


def _render_trainings(result: PolicyResult) -> Markup:
    rows = [
        {"when": tick.as_of, "why": tick.reason, "gate": tick.verdict, "gain in the gate": tick.gain_frac}
        for tick in result.ticks
        if tick.verdict is not None
    ]
    return render_details(f"{result.policy}: {len(rows)}", render_table(rows))
