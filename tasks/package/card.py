"""The model card: Markdown for the person who has to decide whether to trust this release.

Outside the digest.
"""

import json
from typing import Any

from tasks.core.numbers import format_number
from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.explain import ExplainSummary, FeatureImportances
from tasks.core.reports.package import OnlineFigures, Provenance
from tasks.core.reports.quantize import QuantizeDecision, QuantizeLatency
from tasks.release import Manifest, Release
from tasks.release.combine import find_recency
from tasks.release.manifest import GRAPH, Z_HAT

N_FEATURES = 10  # shown
LICENCE = (
    "The code is under Apache-2.0. The data keep the licence of their source, and so may what is learned from"
    " them: look there before you pass this release on."
)


def render_model_card(
    release: Release,
    manifest: Manifest,
    evaluation: EnsembleReport | None,
    provenance: Provenance,
    online: OnlineFigures,
    importance: FeatureImportances | None,
    explained: ExplainSummary | None,
    latency: QuantizeLatency | None,
) -> str:
    """The card as Markdown. A report is None where there is none."""
    parts = [
        f"# {manifest.dataset}: {manifest.model}",
        _render_overview(release, manifest),
        "## Members",
        _render_members(release),
        "## Scores, out of sample",
        _render_scores(release, evaluation),
        "## Intervals",
        _render_coverage(release, evaluation),
        "## What moves the forecasts",
        _render_importance(importance, explained),
        "## INT8",
        _render_decision(provenance.quantize, latency),
        "## Online against offline",
        _render_online(online),
        "## Limits",
        _render_limits(release),
        "## How to call it",
        _render_usage(release, manifest),
        "## Where it comes from",
        _render_provenance(provenance),
        "## Licence",
        LICENCE,
    ]
    return "\n\n".join(parts) + "\n"


def _render_overview(release: Release, manifest: Manifest) -> str:
    about = release.about
    rows = [
        ("digest", f"`{manifest.digest}`"),
        ("target", f"{about.target.column}, {about.target.unit}"),
        ("horizon", f"{about.horizon_steps} steps of {about.every}, calendar {about.calendar}"),
        # A line's worth
        (
            "series",
            (
                f"{len(release.series_ids)}:"
                f" {', '.join(release.series_ids[:8])}{' …' if len(release.series_ids) > 8 else ''}"
            ),
        ),
        (
            "seen until",
            f"{manifest.seen_until:%F %T}Z; nothing known later went into fits, weights or intervals",
        ),
        ("data as of", f"{manifest.as_of:%F %T}Z"),
        ("data version", f"`{manifest.data_version}`"),
    ]
    return f"{about.description}\n\n" + _render_table(("what", "is"), rows)


def _render_members(release: Release) -> str:
    table = _render_table(
        ("member", "weight"),
        [
            (name, f"{weight:.4f}")
            for name, weight in sorted(release.weights.items(), key=lambda item: -item[1])
        ],
    )
    table += f"\n\n{_render_graph(release)}"
    if len(release.weights) == 1:
        return table
    when = (
        " as of seen_until; it moves with the members' recent losses"
        if find_recency(release.combination)
        else ""
    )
    shares = (
        f" A weight is a member's share over all steps, series and regimes{when}."
        if release.ensemble.combination
        else ""
    )
    return (
        f"Combined by `{release.ensemble.combiner}`"
        f" (docs/how-to/read-the-ensemble-report.md).{shares}\n\n{table}"
    )


def _render_graph(release: Release) -> str:
    """What is in the one graph, and what is not."""
    outside = ["the offsets of the intervals, which follow the outcomes"]
    if Z_HAT not in release.graph_outputs:
        outside.append("the combination")
    outside += [f"{name}, which has a graph of its own" for name in sorted(release.members)]
    inside = [name for name in release.ensemble.members if name not in release.members]
    return f"In one graph, `{GRAPH}`: {', '.join(inside) or 'nothing'}. Outside of it: {'; '.join(outside)}."


def _render_scores(release: Release, evaluation: EnsembleReport | None) -> str:
    if evaluation is None:
        return f"No evaluation was found ({EnsembleReport.PATH})."
    score = evaluation.primary_score
    ranked = sorted(evaluation.scores.items(), key=lambda item: _convert_unknown(item[1].primary))
    rows = [
        (
            f"**{name}**" if name == release.model else name,
            *map(_format_figure, (scores.primary, scores.primary_gate, scores.mae, scores.rmse)),
        )
        for name, scores in ranked
    ]
    head = (
        f"Over {evaluation.n_cutoffs_scored} cutoffs before {evaluation.seen_until.isoformat()}, and over the"
        f" {evaluation.n_cutoffs_gate} of the gate after it. Baseline: {evaluation.baseline}."
        f" {evaluation.reason.capitalize()}."
    )
    return head + "\n\n" + _render_table(("model", score, f"{score} on the gate's rows", "MAE", "RMSE"), rows)


def _render_coverage(release: Release, evaluation: EnsembleReport | None) -> str:
    spec = release.ensemble
    whose = {
        "series": "each series",
        "regime": f"all series in one regime of {spec.regime.column if spec.regime else '?'}",
    }.get(spec.group, "all series together")
    of_what = (
        "the members' own quantiles"
        f" ({', '.join(name for names in spec.quantile_members.values() for name in names)})"
        if spec.quantile_members
        else "the forecast"
    )
    method = (
        f"{'Adaptive conformal' if spec.adapt_rate else 'Conformal'} quantiles"
        f" {', '.join(f'{q:g}' for q in spec.quantiles)} around {of_what}, from the newest {spec.residuals}"
        f" errors of {whose} and each step"
        + (f", read as {spec.block} sets" if spec.block > 1 else "")
        + (f"; they follow their own misses at rate {spec.adapt_rate:g}." if spec.adapt_rate else ".")
    )
    if evaluation is None:
        return method
    coverage = evaluation.coverage
    rows = [
        ("overall", _format_figure(coverage.overall)),
        ("gate's rows", _format_figure(coverage.gate)),
        ("by step", ", ".join(map(_format_figure, coverage.by_step))),
    ]
    rows += [(year, _format_figure(share)) for year, share in coverage.by_year.items()]
    return (
        f"{method} The outer two should hold {_format_figure(coverage.level)} of what comes.\n\n"
        + _render_table(("where", "share inside"), rows)
    )


def _render_importance(importance: FeatureImportances | None, explained: ExplainSummary | None) -> str:
    if importance is None or explained is None:
        return "Not examined."
    head = ("feature", "mean absolute part", "permutation", "LIME")
    rows = [
        (row.feature, *map(_format_figure, (row.mean_abs_part, row.permutation, row.lime)))
        for row in importance.root[:N_FEATURES]
    ]
    agreement = ", ".join(f"{value:.2f} with {name}" for name, value in explained.agreement.items())
    return (
        f"Shapley values of {explained.n_sample} forecasts, in the space in which the members are combined."
        f" Rank correlation over all features: {agreement or 'not examined'}.\n\n" + _render_table(head, rows)
    )


def _render_decision(decision: QuantizeDecision | None, latency: QuantizeLatency | None) -> str:
    """The reason and a line for each form of each net (docs/how-to/read-the-int8-table.md)."""
    if decision is None:
        return "Not examined."
    worst = max(decision.parity_sd.values(), default=0.0)
    reason = (
        f"{decision.reason}\n\nOn {decision.n_gate_rows} of the gate's rows, graphs differ from their"
        f" forecasters by at most {worst:.1e} standard deviations"
        f" (allowed: {decision.limits.max_parity_sd:g})."
    )
    if not (table := decision.build_table(latency)):
        return reason
    note = (
        f"Changes against FP32 on {decision.n_judged_rows} rows of the training window, with their 90 %"
        " intervals; times on one thread (docs/how-to/read-the-int8-table.md)."
    )
    lines = _render_table(tuple(table[0]), [tuple(line.values()) for line in table])
    return f"{reason}\n\n{note}\n\n{lines}"


def _render_online(online: OnlineFigures) -> str:
    return (
        f"The packaged service was asked for {online.n_series} series at the cutoffs from"
        f" {online.first_cutoff:%F} to {online.last_cutoff:%F}, and {online.n_histories} times with a history"
        f" in the request. {online.n_features:,} features and {online.n_forecasts:,} numbers of forecasts"
        f" differ from those of training by at most {online.max_difference:.2g}, relative (allowed:"
        f" {online.limit:g})."
    )


def _render_limits(release: Release) -> str:
    about = release.about
    lines = [
        about.description,
        (
            f"It forecasts {about.horizon_steps} steps and no further; a series without a value in the last"
            f" {release.features.last_within_steps} steps gets no forecast."
        ),
        (
            "A series it has not seen borrows the intervals of"
            f" {'all' if release.ensemble.group == 'series' else 'the'} others."
        ),
        ("Intervals adapt to outcomes: after a jump in noise they need some tens of steps to follow."),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _render_usage(release: Release, manifest: Manifest) -> str:
    series = release.series_ids[0] if release.series_ids else "SERIES"
    body = json.dumps({"series_id": series}, ensure_ascii=False)
    return (
        "Where `tidemill up` runs (docs/how-to/call-the-api.md):\n\n"
        f"    curl -s localhost:3000/api/v1/predict -H 'Content-Type: application/json' -d '{body}'\n\n"
        "`tidemill releases` lists the releases that are kept, and `tidemill rollback` goes back to the one"
        f" before. The digest of this one is `{manifest.digest[:12]}`."
    )


def _render_provenance(provenance: Provenance) -> str:
    code = provenance.code
    commit = code.commit or "unknown (built without git)"
    changed = f", with uncommitted changes (sha256 `{code.uncommitted[:12]}`)" if code.uncommitted else ""
    libraries = ", ".join(f"{name} {number}" for name, number in provenance.versions.items())
    return (
        f"Commit `{commit}`{changed}. {libraries}. All of it is in provenance.json; dvc.lock and"
        " params.yaml are next to it."
    )


def _render_table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def _convert_unknown(loss: float | None) -> float:
    """Last in the ranking."""
    return float("inf") if loss is None else loss


def _format_figure(value: Any) -> str:
    return format_number(value, 4) if isinstance(value, float) else "-" if value is None else str(value)
