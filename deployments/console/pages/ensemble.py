"""The run page's sections on the ensemble: which combiner was chosen and what it gains, and how
honest the intervals are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.console.charts.ensemble import Summary, draw_ensemble, draw_intervals
from deployments.console.html import (
    Markup,
    join_parts,
    render_details,
    render_element,
    render_facts,
    render_image,
    render_table,
)
from tasks.edges.artifacts import read_json

SUMMARY = "data/reports/ensemble/summary.json"
SERIES_SHOWN = 4
ROWS_SHOWN = 60  # of a table; the rest are in the report
_PARTS = {"year": "year", "step": "step", "regime": "regime", "series": "series_id"}


def render_ensemble(root: Path) -> Markup:
    """Which combiner was chosen among which, what it gains, who has weight, how alike members
    err, what each contributes.
    """
    summary = read_json(root / SUMMARY)
    title = "Members: weight, what each contributes, correlation of their errors"
    return join_parts(
        render_image(draw_ensemble(summary)),
        render_facts(_list_facts(summary)),
        render_table(_list_combiners(summary)),
        render_details(title, render_table(_list_members(summary))),
    )


def render_coverage(root: Path) -> Markup:
    """How honest the intervals are, and what they cost, by year, step, regime and series."""
    summary = read_json(root / SUMMARY)
    coverage = summary["coverage"]
    regime = coverage["regime"]
    facts = {
        "promised": f"{coverage['level']:.0%}",
        "overall": _format_share(coverage["overall"]),
        "on the gate's rows": _format_share(coverage["gate"]),
        "method": coverage["method"],
    }
    if regime:
        facts["regimes"] = (
            f"{regime['column']} at the origin, {', '.join(regime['names'])}: parted at"
            f" {', '.join(f'{a:.3g}' for a in regime['above'])}"
        )
    tables = [
        render_details(
            f"By {name}", render_table(_list_intervals(coverage["tables"][f"by_{name}"], key, regime))
        )
        for name, key in _PARTS.items()
    ]
    image = render_image(draw_intervals(summary))
    return join_parts(image, render_facts(facts), _render_starts(coverage["starts_from"]), *tables)


def _list_facts(summary: Summary) -> Mapping[str, object]:
    selection, weights, by_series = summary["selection"], summary["weights"], summary["gains_by_series"]
    return {
        "shipped": summary["shipped"],
        "why": summary["reason"],
        "gain": summary["gains"]["text"],
        f"against {by_series['against']}, by series": ", ".join(
            f"{series} {_format_percent(gain['gain_frac'])} (p = {gain['p']:.2g})"
            for series, gain in list(by_series["series"].items())[:SERIES_SHOWN]
        ),
        "selection slice": (
            f"{selection['n_cutoffs']} cutoffs up to {selection['until'][:10]}; combiners were fitted on what"
            f" {selection['fit_until'][:10]} knew"
        ),
        "weights now": ", ".join(
            f"{member} {weight:.2f}" for member, weight in weights.items() if weight > 0
        ),
        "without weight": ", ".join(member for member, weight in weights.items() if weight == 0) or "none",
        **{
            f"{row['combiner']} cannot be served": row["not_servable"]
            for row in selection["combiners"]
            if row["not_servable"]
        },
    }


def _list_combiners(summary: Summary) -> list[Mapping[str, object]]:
    return [
        {
            "combiner": row["combiner"] + (" (chosen)" if row["chosen"] else ""),
            f"{summary['primary_score']} on the slice": "" if row["loss"] is None else f"{row['loss']:.5g}",
            f"below {summary['best_member']}": _format_percent(row["below_best_member_frac"]),
            "p that the leader's lead over it is luck": (
                "" if row["p_lead_is_luck"] is None else row["p_lead_is_luck"]
            ),
            "cannot be served": "yes" if row["not_servable"] else "",
        }
        for row in summary["selection"]["combiners"]
    ]


def _list_members(summary: Summary) -> list[Mapping[str, object]]:
    correlation = summary["correlation"]
    return [
        {
            "member": member,
            "weight": summary["weights"][member],
            "loss rises without it by": _format_percent(summary["brings_frac"].get(member)),
            **{f"errors with {other}": r for other, r in zip(correlation, row, strict=True)},
        }
        for member, row in correlation.items()
    ]


def _render_starts(starts: Sequence[Mapping[str, Any]]) -> Markup:
    if not starts:
        return Markup("")
    rows = [
        {
            "quantile": f"{row['quantile']:g}",
            "forecast by": ", ".join(row["members"]),
            "actual below it": _format_share(row.get("own_below_frac")),
            "below what was issued": _format_share(row.get("issued_below_frac")),
            "its pinball": row.get("own_pinball"),
            "pinball as issued": row.get("issued_pinball"),
        }
        for row in starts
    ]
    note = (
        "The intervals start from quantiles that models forecast themselves, and are moved by the errors of"
        " these."
    )
    return join_parts(render_element("p", note), render_table(rows))


def _list_intervals(
    rows: Sequence[Mapping[str, Any]], key: str, regime: Mapping[str, Any] | None
) -> list[Mapping[str, object]]:
    """Rows of a table of the intervals; what each row is about comes first."""
    return [
        {
            key.removesuffix("_id"): regime["names"][row[key]]
            if regime and key == "regime"
            else str(row[key]),
            "outcomes": row["n"],
            "inside": _format_share(row["coverage_frac"]),
            "width": row["width"],
            "interval score": row["interval_score"],
            "pinball": row["pinball"],
            "crps": row["crps"],
        }
        for row in rows[:ROWS_SHOWN]
    ]


def _format_percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.2%}"


def _format_share(share: float | None) -> str:
    return "not known" if share is None else f"{share:.1%}"
