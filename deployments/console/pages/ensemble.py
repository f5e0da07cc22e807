"""The run page's sections on the models: errors, the chosen combiner, the intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deployments.console.charts.ensemble import draw_ensemble, draw_intervals
from deployments.console.charts.forecast import draw_errors
from deployments.console.html import (
    Markup,
    join_parts,
    render_details,
    render_element,
    render_facts,
    render_image,
    render_table,
)
from tasks.core.reports.ensemble import BaseQuantile, EnsembleReport, RegimeNames, TableRow
from tasks.edges.artifacts import read_report

SERIES_SHOWN = 4  # with more it is not readable; the rest are in the reports
ROWS_SHOWN = 60  # of a table; the rest are in the report
_ENSEMBLE = "ensemble"


def render_models(root: Path) -> Markup:
    """Every model's error, compared with the baselines'."""
    report = read_report(root / EnsembleReport.PATH, EnsembleReport)
    score = report.primary_score
    losses = {name: scores.primary for name, scores in report.scores.items() if scores.primary is not None}
    errors = dict(sorted(losses.items(), key=lambda item: item[1]))
    label = f"{score}, mean over {report.n_cutoffs_scored} cutoffs; lower is better"
    rows = [_list_model_figures(report, name) for name in [*errors, *(report.scores.keys() - errors.keys())]]
    chart = draw_errors(errors, report.baseline, _ENSEMBLE, label)
    return join_parts(render_image(chart), render_table(rows))


def render_ensemble(root: Path) -> Markup:
    """The combiners and their gains, the members' weights, correlations and contributions."""
    report = read_report(root / EnsembleReport.PATH, EnsembleReport)
    title = "Members: weight, what each contributes, correlation of their errors"
    return join_parts(
        render_image(draw_ensemble(report)),
        render_facts(_list_facts(report)),
        render_table(_list_combiners(report)),
        render_details(title, render_table(_list_members(report))),
    )


def render_coverage(root: Path) -> Markup:
    """Coverage, width and scores of the intervals, by year, step, regime and series."""
    report = read_report(root / EnsembleReport.PATH, EnsembleReport)
    coverage, tables, regime = report.coverage, report.coverage.tables, report.coverage.regime
    if coverage.level is None:
        return render_element("p", "Forecasts of this kind of target have no interval.")
    facts = {
        "nominal": f"{coverage.level:.0%}",
        "overall": _format_share(coverage.overall),
        "on the gate's rows": _format_share(coverage.gate),
        "method": coverage.method,
    }
    if regime:
        facts["regimes"] = (
            f"{regime.column} at the origin, {', '.join(regime.names)}: split at"
            f" {', '.join(f'{threshold:.3g}' for threshold in regime.above)}"
        )
    parts = (
        ("year", _list_intervals(tables.by_year, "year")),
        ("step", _list_intervals(tables.by_step, "step")),
        ("regime", _list_intervals(tables.by_regime, "regime", regime)),
        ("series", _list_intervals(tables.by_series, "series_id")),
    )
    return join_parts(
        render_image(draw_intervals(report)),
        render_facts(facts),
        _render_starts(coverage.starts_from),
        *(render_details(f"By {name}", render_table(rows)) for name, rows in parts),
    )


def _list_model_figures(report: EnsembleReport, name: str) -> Mapping[str, object]:
    scores, base = report.scores[name], report.scores[report.baseline].primary
    versus, best = report.comparisons.get(name), report.confidence_set
    by_series = list(scores.by_series.items())[:SERIES_SHOWN]
    return {
        "model": name,
        report.primary_score: scores.primary,
        f"against {report.baseline}": (
            f"{100 * (scores.primary / base - 1):+.1f} %" if scores.primary is not None and base else ""
        ),
        "on the gate": scores.primary_gate,
        "ensemble is better by": f"{100 * versus.gain_frac:+.1f} %, p = {versus.p:.2g}" if versus else "",
        "Diebold-Mariano p": _hide_unknown(versus and versus.p_diebold_mariano),
        "may be the best": (
            f"{'yes' if name in best.members else 'no'}, p = {best.p[name]:.2g}"
            if best and name in best.p
            else ""
        ),
        "outcomes": f"{scores.n:,}" + (" of its own: too few to compare" if name in report.left_out else ""),
        "mae": scores.mae,
        "rmse": scores.rmse,
        **{f"{report.primary_score} {series}": loss for series, loss in by_series},
    }


def _list_facts(report: EnsembleReport) -> Mapping[str, object]:
    selection, weights, by_series = report.selection, report.weights, report.gains_by_series
    return {
        "shipped": report.shipped,
        "why": report.reason,
        "gain": report.gains.text,
        f"against {by_series.against}, by series": ", ".join(
            f"{series} {_format_percent(gain.gain_frac)} (p = {gain.p:.2g})"
            for series, gain in list(by_series.series.items())[:SERIES_SHOWN]
        ),
        "selection slice": (
            f"{selection.n_cutoffs} cutoffs up to {selection.until:%F}; combiners were fitted on data"
            f" available at {selection.fit_until:%F}"
        ),
        "weights now": ", ".join(
            f"{member} {weight:.2f}" for member, weight in weights.items() if weight > 0
        ),
        "without weight": ", ".join(member for member, weight in weights.items() if weight == 0) or "none",
        **{
            f"{row.combiner} cannot be served": row.not_servable
            for row in selection.combiners
            if row.not_servable
        },
    }


def _list_combiners(report: EnsembleReport) -> list[Mapping[str, object]]:
    return [
        {
            "combiner": row.combiner + (" (chosen)" if row.chosen else ""),
            f"{report.primary_score} on the slice": "" if row.loss is None else f"{row.loss:.5g}",
            f"below {report.best_member}": _format_percent(row.below_best_member_frac),
            "p that the leader's lead over it is chance": _hide_unknown(row.p_lead_is_luck),
            "cannot be served": "yes" if row.not_servable else "",
        }
        for row in report.selection.combiners
    ]


def _list_members(report: EnsembleReport) -> list[Mapping[str, object]]:
    return [
        {
            "member": member,
            "weight": report.weights[member],
            "loss rises without it by": _format_percent(report.contribution_frac.get(member)),
            **{f"errors with {other}": r for other, r in zip(report.correlation, row, strict=True)},
        }
        for member, row in report.correlation.items()
    ]


def _render_starts(starts: Sequence[BaseQuantile]) -> Markup:
    if not starts:
        return Markup("")
    rows = [
        {
            "quantile": f"{start.quantile:g}",
            "forecast by": ", ".join(start.members),
            "actual below it": _format_share(start.own_below_frac),
            "below what was issued": _format_share(start.issued_below_frac),
            "its pinball": start.own_pinball,
            "pinball as issued": start.issued_pinball,
        }
        for start in starts
    ]
    note = (
        "The intervals start from quantiles that models forecast, and are shifted by the errors of these"
        " quantiles."
    )
    return join_parts(render_element("p", note), render_table(rows))


def _list_intervals(
    rows: Sequence[TableRow], key: str, regime: RegimeNames | None = None
) -> list[Mapping[str, object]]:
    """Rows of a table of the intervals. key: of the first column, which names the row."""
    return [
        {
            key.removesuffix("_id"): regime.names[int(row[key] or 0)] if regime else str(row[key]),
            "outcomes": row["n"],
            "inside": _format_share(row["coverage_frac"]),
            "width": row["width"],
            "interval score": row["interval_score"],
            "pinball": row["pinball"],
            "crps": row["crps"],
        }
        for row in rows[:ROWS_SHOWN]
    ]


def _hide_unknown(value: object) -> object:
    return "" if value is None else value


def _format_percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.2%}"


def _format_share(share: float | str | None) -> str:
    return "not known" if share is None else f"{float(share):.1%}"
