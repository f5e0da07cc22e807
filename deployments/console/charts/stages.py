"""The charts of a stage, from its files under a checkout's root."""

from pathlib import Path

import polars as pl

from deployments.console.charts.ensemble import draw_ensemble, draw_intervals
from deployments.console.charts.explain import (
    draw_curves,
    draw_importance,
    draw_last,
    draw_methods,
    draw_shares,
)
from deployments.console.charts.gate import draw_losses
from deployments.console.charts.monitor import draw_service_level, draw_steps
from deployments.console.html import Image
from tasks.core.kinds import get_kind
from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.explain import ExplainSummary, FeatureImportances
from tasks.core.reports.monitor import MonitorReport
from tasks.core.reports.promote import GateDecision
from tasks.edges.artifacts import read_report
from tasks.edges.params import read_about

SERIES_SHOWN = 4  # whose last forecast is drawn; the table has all that were explained


def draw_stage(stage: str, root: Path) -> list[Image]:
    """The stage's charts; none for a stage whose figures are enough.

    Raises FrameError when a file is missing.
    """
    draw = {
        "ensemble": draw_ensemble_charts,
        "explain": draw_explain_charts,
        "promote": draw_promote_charts,
        "monitor": draw_monitor_charts,
    }.get(stage)
    return [] if draw is None else draw(root)


def draw_ensemble_charts(root: Path) -> list[Image]:
    """Those of the target's kind."""
    report = read_report(root / EnsembleReport.PATH, EnsembleReport)
    draws = {"ensemble": draw_ensemble, "intervals": draw_intervals}
    return [draws[name](report) for name in get_kind(read_about(root).target).charts]


def draw_explain_charts(root: Path) -> list[Image]:
    """Importance of the features, the last forecasts of the first series, and other methods."""
    summary = read_report(root / ExplainSummary.PATH, ExplainSummary)
    importance = read_report(root / FeatureImportances.PATH, FeatureImportances)
    attributions = pl.read_parquet(root / "data/reports/explain/attributions.parquet")
    target = read_about(root).target
    last = [draw_last(attributions, series, target) for series in summary.series_last[:SERIES_SHOWN]]
    more = []
    if summary.agreement and (features := importance.root):  # an earlier version has not written them
        curves = pl.read_parquet(root / "data/reports/explain/curves.parquet")
        more = [draw_methods(features, summary.agreement), draw_shares(features), draw_curves(curves)]
    return [draw_importance(importance.root, summary.model), *last, *more]


def draw_promote_charts(root: Path) -> list[Image]:
    """The losses of the gate; none when nothing was compared."""
    decision = read_report(root / GateDecision.PATH, GateDecision)
    losses = pl.read_parquet(root / "data/decisions/promote/losses.parquet")
    return [draw_losses(losses, f"{decision.dataset}: {decision.decision}")] if losses.height else []


def draw_monitor_charts(root: Path) -> list[Image]:
    """Loss and coverage by step, then each over time; none before an outcome is known."""
    report, about = read_report(root / MonitorReport.PATH, MonitorReport), read_about(root)
    if not report.overall.n_known:
        return []
    watched = [draw_service_level(level) for level in report.service_levels if level.points]
    return [draw_steps(report.by_step, get_kind(about.target).get_level(about)), *watched]
