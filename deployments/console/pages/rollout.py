"""The page of a rollout: its moves, what the outcomes say, both releases side by side."""

from pathlib import Path

from deployments.console.charts.rollout import draw_bets, draw_gain, draw_losses
from deployments.console.html import render_element, render_image, render_page, render_section, render_table
from tasks.core.reports.rollout import RolloutReport
from tasks.edges.artifacts import read_report
from tasks.edges.params import read_dataset
from tasks.edges.rollouts import get_judgement_path, read_rollout_moves


def list_inputs(root: Path) -> list[str]:
    """Paths of the page's inputs."""
    return [str(get_judgement_path(read_dataset(root)))]


def render_rollout(root: Path) -> str:
    """The last rollout of the current dataset."""
    report = read_report(get_judgement_path(read_dataset(root)), RolloutReport)
    moves = [move for move in read_rollout_moves(report.dataset) if move.challenger == report.challenger]
    rows = [
        {
            "as of": f"{move.moved_as_of:%F %T}",
            "weight": f"{move.weight:.0%}",
            "by": move.by,
            "why": move.reason,
        }
        for move in moves
    ]
    name = "A/B test" if moves and moves[-1].params.rule == "ab" else "Rollout"
    charts = [draw_gain(report)] if report.comparison is not None else []
    charts += [draw_losses(report), draw_bets(report)] if report.points else []
    return render_page(
        f"rollout: {report.dataset}",
        render_element("h1", f"{name}: {report.state} at {report.weight:.0%}"),
        render_element("p", f"As of {report.as_of.isoformat()}: {report.reason}.", "lead"),
        render_table(rows),
        render_section("Outcomes", render_table([_list_figures(report)]), *map(render_image, charts)),
    )


def _list_figures(report: RolloutReport) -> dict[str, object]:
    evidence, comparison = report.evidence, report.comparison
    figures: dict[str, object] = {
        "challenger": f"{report.model} {report.challenger[:12]}",
        "champion": report.champion[:12],
        "cutoffs": 0 if evidence is None else evidence.n_cutoffs,
        "failed requests": report.n_errors,
    }
    if report.latency_ratio is not None:
        figures["times as slow"] = f"{report.latency_ratio:.2f}"
    if evidence is not None and evidence.gain_frac is not None:
        figures["loss lower by"] = f"{evidence.gain_frac:.1%}"
    if comparison is not None:
        figures["with 90 % between"] = f"{comparison.gain_low_frac:.1%} and {comparison.gain_high_frac:.1%}"
        figures["lower with probability"] = f"{comparison.better_probability:.1%}"
    return figures
