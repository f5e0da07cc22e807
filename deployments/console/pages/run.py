"""The one HTML page that a run leaves: what is forecast, how good it was, what was decided and why.

Self-contained, no script, no network. It reads artifacts and draws; it computes no score of its
own. What is not there yet (a stage that has not run) is left out and said.
"""

import base64
import html
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.frames import FORECAST, SERIES, format_quantile_columns
from tasks.edges.artifacts import read_frame, read_json, write_text
from tasks.edges.current import is_current
from tasks.edges.params import read_about, read_dataset, read_models
from tasks.edges.settings import ROOT, read_settings

INK, MUTED, GRID, BLUE, BAND, ORANGE, GREEN = (
    "#1f2933",
    "#6b7785",
    "#e3e7eb",
    "#2463a6",
    "#bcd4ee",
    "#c8641e",
    "#3c8d5a",
)
SERIES_SHOWN = 4  # more small pictures would not be read; the rest are in the reports
STEPS_SHOWN = 120
ROWS_SHOWN = 60  # of a table; the rest are in the reports
NEXT = (
    ("make up", "keeps the service, Prefect, MLflow and a worker running and prints their addresses"),
    (
        "tidemill new mine --csv FILE",
        "looks into your own file and writes a dataset entry that runs as it is",
    ),
    ("tidemill status", "what is champion, as of when, and what was decided last"),
)


def write_page(root: Path = ROOT) -> Path:
    """Draw the page from what the stages left under *root* and return its path."""
    path = read_settings().home / "report" / "index.html"
    write_text(path, build_page(root))
    return path


def build_page(root: Path = ROOT) -> str:
    """The page as HTML."""
    about, dataset = read_about(root), read_dataset(root)
    parts = [_render_section(title, draw, root) for title, draw in SECTIONS]
    commands = "".join(f"<li><code>{html.escape(c)}</code> {html.escape(why)}</li>" for c, why in NEXT)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport"
        " content='width=device-width'><title>Tidemill:"
        f" {dataset}</title><style>{STYLE}</style><main><h1>{html.escape(dataset)}</h1><p"
        f" class=lead>{html.escape(about.description)}</p>{''.join(parts)}<h2>Next</h2><ul"
        f" class=next>{commands}</ul></main></html>"
    )


def _render_section(title: str, draw: Callable[[Path], str], root: Path) -> str:
    missing = [p for p in NEEDS.get(draw, ()) if not (root / p).exists()]
    missing += [
        f"{p} (what is there is another dataset's)"
        for p in NEEDS.get(draw, ())
        if not is_current(p, read_dataset(root), root)
    ]
    body = f"<p class=none>Not there yet: {', '.join(missing)}.</p>" if missing else draw(root)
    return f"<section><h2>{title}</h2>{body}</section>"


def _render_forecast(root: Path) -> str:
    """The newest forecasts, as fans that continue the actual values."""
    about = read_about(root)
    gate = read_frame(root / "data/reports/ensemble/gate.parquet", FORECAST)
    newest = gate.filter(pl.col("cutoff") == gate["cutoff"].max())
    names = format_quantile_columns(about.quantiles)
    ids = newest["series_id"].unique().sort().to_list()
    pictures = [
        _render_chart(
            partial(
                _draw_fan, gate=gate.filter(pl.col("series_id") == s), names=names, unit=about.target.unit
            ),
            s,
        )
        for s in ids[:SERIES_SHOWN]
    ]
    table = newest.filter(pl.col("series_id").is_in(ids[:SERIES_SHOWN])).select(
        "series_id", "event_time", "y_hat", *names
    )
    more = (
        f"<p>{len(ids) - SERIES_SHOWN} more series are in data/reports/ensemble/gate.parquet.</p>"
        if len(ids) > SERIES_SHOWN
        else ""
    )
    note = (
        f"<p>Each step's first forecast over the last {STEPS_SHOWN} rows of the gate, which no fit has seen,"
        f" and the newest cutoff's whole horizon. Unit: {html.escape(about.target.unit)}.</p>"
    )
    return (
        note
        + "".join(pictures)
        + more
        + "<details><summary>The newest forecast as a table</summary>"
        + _render_table(table.to_dicts())
        + "</details>"
    )


def _draw_fan(axes: Any, gate: pl.DataFrame, names: list[str], unit: str) -> None:
    first = gate.filter(pl.col("step") == 1).tail(STEPS_SHOWN)
    last = gate.filter(pl.col("cutoff") == gate["cutoff"].max())
    for part, alpha in ((first, 0.6), (last, 1.0)):
        axes.fill_between(
            part["event_time"],
            part[names[0]],
            part[names[-1]],
            color=BAND,
            alpha=alpha,
            linewidth=0,
            label=None if part is last else "interval, one step ahead",
        )
    axes.plot(first["event_time"], first["y"], color=INK, linewidth=1.2, label="actual")
    axes.plot(
        first["event_time"], first["y_hat"], color=BLUE, linewidth=1.0, label="forecast, one step ahead"
    )
    axes.plot(
        last["event_time"],
        last["y_hat"],
        color=ORANGE,
        linewidth=1.8,
        marker="o",
        markersize=3,
        label="newest forecast",
    )
    axes.set_ylabel(unit)
    axes.legend(loc="upper left", frameon=False, fontsize=8, ncols=2)


def _render_walk_forward(root: Path) -> str:
    """All of history with the refits, the scored cutoffs and the gate."""
    summary = read_json(root / "data/reports/ensemble/summary.json")
    about = read_about(root)
    table = pl.read_parquet(root / "data/features/table.parquet", columns=["series_id", "event_time", "y"])
    ids = table["series_id"].unique().sort().to_list()[:SERIES_SHOWN]
    fits = {
        m: read_json(f)["folds"]
        for m in sorted(read_models(root))
        if (f := root / "models/fits" / m / "fit.json").exists()
    }
    folds = max(fits.values(), key=len)
    gate_from = pl.Series([summary["seen_until"]]).str.to_datetime(time_zone="UTC")[0]

    def draw(axes: Any) -> None:
        for series_id, colour in zip(ids, (BLUE, ORANGE, GREEN, MUTED), strict=False):
            part = table.filter(pl.col("series_id") == series_id)
            part = part.gather_every(max(1, part.height // 2000))
            axes.plot(part["event_time"], part["y"], color=colour, linewidth=0.6, label=series_id)
        refits = pl.Series([f["fit_at"] for f in folds]).str.to_datetime(time_zone="UTC")
        axes.plot(
            refits,
            [0.0] * len(refits),
            "|",
            color=INK,
            markersize=9,
            transform=axes.get_xaxis_transform(),
            label="refit",
            clip_on=False,
        )
        axes.axvspan(gate_from, table["event_time"].max(), color=GRID, zorder=0, label="gate's rows")
        if about.target.transform != "none":
            axes.set_yscale("log")
        axes.set_ylabel(about.target.unit)
        axes.legend(loc="upper left", frameon=False, fontsize=8, ncols=3)

    facts = {
        "cutoffs scored": summary["n_cutoffs_scored"],
        "scored from": summary["scored_from"][0],
        "refits": ", ".join(f"{m} {len(f)}" for m, f in fits.items()),
        "gate's rows": f"{summary['n_cutoffs_gate']} cutoffs after {summary['seen_until'][:10]}",
    }
    return _render_chart(draw, "history, refits and the gate's rows") + _render_facts(facts)


def _render_models(root: Path) -> str:
    """Every model's error next to the baselines'."""
    summary = read_json(root / "data/reports/ensemble/summary.json")
    scores, base = summary["scores"], summary["scores"][summary["baseline"]]["primary"]
    names = sorted(scores, key=lambda n: scores[n]["primary"])

    def draw(axes: Any) -> None:
        colours = [BLUE if n == "ensemble" else MUTED if n == summary["baseline"] else BAND for n in names]
        axes.barh(names, [scores[n]["primary"] for n in names], color=colours)
        axes.axvline(base, color=INK, linewidth=1, linestyle=":")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(
            f"{summary['primary_score']}, mean over {summary['n_cutoffs_scored']} cutoffs; lower is better"
        )

    versus, best = summary.get("comparisons", {}), summary["confidence_set"]
    rows = [
        {
            "model": n,
            summary["primary_score"]: scores[n]["primary"],
            f"against {summary['baseline']}": f"{100 * (scores[n]['primary'] / base - 1):+.1f} %",
            "on the gate": scores[n]["primary_gate"],
            "ensemble is better by": (
                f"{100 * versus[n]['gain_frac']:+.1f} %, p = {versus[n]['p']:.2g}" if n in versus else ""
            ),
            "Diebold-Mariano p": versus.get(n, {}).get("p_diebold_mariano", ""),
            "may be the best": (
                "" if best is None else f"{'yes' if n in best['members'] else 'no'}, p = {best['p'][n]:.2g}"
            ),
            "outcomes": (
                f"{scores[n]['n']:,}{' of its own: too few to be compared' if n in summary['left_out'] else ''}"
            ),
            "mae": scores[n]["mae"],
            "rmse": scores[n]["rmse"],
            **{
                f"{summary['primary_score']} {s}": v
                for s, v in list(scores[n]["by_series"].items())[:SERIES_SHOWN]
            },
        }
        for n in names
    ]
    return _render_chart(draw, "error of every model", height=0.45 * len(names) + 0.8) + _render_table(rows)


def _render_ensemble(root: Path) -> str:
    """Which combiner was chosen among which, what it gains, who has weight, how alike members
    err, what each brings.
    """
    folder = root / "data/reports/ensemble"
    summary = read_json(folder / "summary.json")
    selection, weights = summary["selection"], summary["weights"]
    by_series = summary["gains_by_series"]
    facts = {
        "shipped": summary["shipped"],
        "why": summary["reason"],
        "gain": summary["gains"]["text"],
        f"against {by_series['against']}, by series": ", ".join(
            f"{s} {_format_percent(g['gain_frac'])} (p = {g['p']:.2g})"
            for s, g in list(by_series["series"].items())[:SERIES_SHOWN]
        ),
        "selection slice": (
            f"{selection['n_cutoffs']} cutoffs up to {selection['until'][:10]}; combiners were fitted on what"
            f" {selection['fit_until'][:10]} knew"
        ),
        "weights now": ", ".join(f"{m} {w:.2f}" for m, w in weights.items() if w > 0),
        "without weight": ", ".join(m for m, w in weights.items() if w == 0) or "none",
    }
    combiners = [
        {
            "combiner": row["combiner"] + (" (chosen)" if row["chosen"] else ""),
            f"{summary['primary_score']} on the slice": "" if row["loss"] is None else f"{row['loss']:.5g}",
            f"below {summary['best_member']}": _format_percent(row["below_best_member_frac"]),
            "p that the leader's lead over it is luck": (
                "" if row["p_lead_is_luck"] is None else row["p_lead_is_luck"]
            ),
            "cannot be served": "yes" if row["not_servable"] else "",
        }
        for row in selection["combiners"]
    ]
    facts |= {
        f"{row['combiner']} cannot be served": row["not_servable"]
        for row in selection["combiners"]
        if row["not_servable"]
    }
    members = [
        {
            "member": m,
            "weight": weights[m],
            "loss rises without it by": _format_percent(summary["contribution_frac"].get(m)),
        }
        | {f"errors with {n}": r for n, r in zip(summary["correlation"], correlated, strict=True)}
        for m, correlated in summary["correlation"].items()
    ]
    return (
        _render_image(
            (folder / "ensemble.png").read_bytes(), "combiners, shares, correlation, what each member brings"
        )
        + _render_facts(facts)
        + _render_table(combiners)
        + "<details><summary>Members: weight, what each brings, correlation of their errors</summary>"
        + _render_table(members)
        + "</details>"
    )


def _format_percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.2%}"


def _render_coverage(root: Path) -> str:
    """How honest the intervals are, and what they cost, by year, step, regime and series."""
    folder = root / "data/reports/ensemble"
    coverage = read_json(folder / "summary.json")["coverage"]
    regime, tables = coverage["regime"], coverage["tables"]
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
    named = {"year": "year", "step": "step", "regime": "regime", "series": "series_id"}
    parts = "".join(
        "<details><summary>By"
        f" {name}</summary>{_render_table([_build_part_row(row, key, regime) for row in tables[f'by_{name}'][:ROWS_SHOWN]])}</details>"
        for name, key in named.items()
    )
    starts = [
        {
            "quantile": f"{row['quantile']:g}",
            "forecast by": ", ".join(row["members"]),
            "actual below it": _format_share(row.get("own_below_frac")),
            "below what was issued": _format_share(row.get("issued_below_frac")),
            "its pinball": row.get("own_pinball"),
            "pinball as issued": row.get("issued_pinball"),
        }
        for row in coverage["starts_from"]
    ]
    own = (
        "<p>The intervals start from quantiles that models forecast themselves, and are moved by the errors"
        " of these.</p>" + _render_table(starts)
    )
    return (
        _render_image((folder / "intervals.png").read_bytes(), "coverage, width and interval score")
        + _render_facts(facts)
        + (own if starts else "")
        + parts
    )


def _build_part_row(row: dict[str, Any], key: str, regime: dict[str, Any] | None) -> dict[str, Any]:
    """A row of a table of the intervals, whose they are first."""
    whose = regime["names"][row[key]] if regime and key == "regime" else str(row[key])
    columns = {
        "outcomes": "n",
        "inside": "coverage_frac",
        "width": "width",
        "interval score": "interval_score",
        "pinball": "pinball",
        "crps": "crps",
    }
    return {key.removesuffix("_id"): whose} | {
        name: _format_share(row[of]) if of == "coverage_frac" else row[of] for name, of in columns.items()
    }


def _render_explanation(root: Path) -> str:
    """What the shipped forecast listens to."""
    pictures = [
        p
        for p in sorted((root / "data/reports/explain").glob("*.png"))
        if p.name.startswith(("importance", "last_"))
    ]
    return "".join(_render_image(p.read_bytes(), p.stem) for p in pictures[: 1 + SERIES_SHOWN])


def _render_int8(root: Path) -> str:
    """INT8 or FP32, with the figures."""
    return _render_facts(_build_flat_dict(read_json(root / "models/quantized/decision.json")))


def _render_gate(root: Path) -> str:
    """What promote decided, and why."""
    folder = root / "data/decisions/promote"
    decision = read_json(folder / "decision.json")
    pictures = "".join(_render_image(p.read_bytes(), p.stem) for p in sorted(folder.glob("*.png")))
    return (
        f"<p class=verdict>{html.escape(str(decision.get('decision')))}:"
        f" {html.escape(str(decision.get('reason')))}</p>"
        + pictures
        + _render_facts(_build_flat_dict(decision))
    )


def _render_rows(root: Path) -> str:
    """Rows received, kept, quarantined, repeated."""
    summary, ledger = (
        read_json(root / "data/reports/validate/summary.json"),
        read_json(root / "data/raw/ledger.json"),
    )
    clean = read_frame(root / "data/clean/rows.parquet", SERIES)
    spans = (
        clean.group_by("series_id")
        .agg(rows=pl.len(), first=pl.col("event_time").min(), last=pl.col("event_time").max())
        .sort("series_id")
    )
    files = [{k: v for k, v in f.items() if not isinstance(v, list | dict)} for f in ledger["files"]]
    return (
        _render_facts(_build_flat_dict(summary))
        + _render_table(spans.head(20).to_dicts())
        + "<details><summary>Ledger of files</summary>"
        + _render_table(files)
        + "</details>"
    )


SECTIONS: tuple[tuple[str, Callable[[Path], str]], ...] = (
    ("Forecast", _render_forecast),
    ("History, folds and cutoffs", _render_walk_forward),
    ("Every model and the baselines", _render_models),
    ("The ensemble", _render_ensemble),
    ("Coverage of the interval", _render_coverage),
    ("What the forecast listens to", _render_explanation),
    ("INT8 or FP32", _render_int8),
    ("The gate", _render_gate),
    ("Rows", _render_rows),
)
_SUMMARY = "data/reports/ensemble/summary.json"
NEEDS: dict[Callable[[Path], str], tuple[str, ...]] = {
    _render_forecast: ("data/reports/ensemble/gate.parquet",),
    _render_walk_forward: (_SUMMARY, "data/features/table.parquet"),
    _render_models: (_SUMMARY,),
    _render_ensemble: (_SUMMARY, "data/reports/ensemble/ensemble.png"),
    _render_coverage: (_SUMMARY, "data/reports/ensemble/intervals.png"),
    _render_explanation: ("data/reports/explain",),
    _render_int8: ("models/quantized/decision.json",),
    _render_gate: ("data/decisions/promote/decision.json",),
    _render_rows: ("data/reports/validate/summary.json", "data/raw/ledger.json", "data/clean/rows.parquet"),
}


def _render_chart(draw: Callable[[Any], None], title: str, width: float = 9.4, height: float = 2.9) -> str:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style = {
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "axes.titlecolor": INK,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        draw(axes)
        axes.set_title(title, loc="left", fontsize=9.5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        plt.close(figure)
    return _render_image(buffer.getvalue(), title)


def _render_image(data: bytes, title: str) -> str:
    return f"<img alt='{html.escape(title)}' src='data:image/png;base64,{base64.b64encode(data).decode()}'>"


def _render_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<p class=none>No rows.</p>"
    head = "".join(f"<th>{html.escape(str(k))}</th>" for k in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_format_cell(v))}</td>" for v in row.values()) + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _render_facts(facts: dict[str, Any]) -> str:
    return (
        "<dl>"
        + "".join(
            f"<dt>{html.escape(k)}</dt><dd>{html.escape(_format_cell(v))}</dd>" for k, v in facts.items()
        )
        + "</dl>"
    )


def _build_flat_dict(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= (
            _build_flat_dict(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def _format_cell(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:%F %R}" if hasattr(value, "strftime") else str(value)


def _format_share(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1%}"


STYLE = f"""
body{{font:15px/1.5 system-ui,sans-serif;color:{INK};background:#fbfcfd;margin:0}}main{{max-width:1080px;margin:0 auto;padding:24px}}
h1{{margin:0 0 4px;font-size:26px}}h2{{margin:36px 0 8px;font-size:18px;border-bottom:1px solid {GRID};padding-bottom:4px}}.lead{{color:{MUTED};margin:0}}
img{{max-width:100%;display:block;margin:6px 0}}.wide{{overflow-x:auto}}
table{{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}}th,td{{padding:4px 10px;border-bottom:1px solid {GRID};text-align:right;white-space:nowrap}}
th:first-child,td:first-child{{text-align:left}}th{{color:{MUTED};font-weight:600;white-space:normal;vertical-align:bottom}}
dl{{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;font-size:13.5px}}dt{{color:{MUTED}}}dd{{margin:0;overflow-wrap:anywhere}}
.verdict{{font-weight:600}}.none{{color:{MUTED}}}code{{background:#eef2f6;padding:1px 5px;border-radius:3px}}.next li{{margin:4px 0}}summary{{cursor:pointer;color:{MUTED}}}
"""
