"""What a stage shows in Prefect's UI: a table and a picture from the files it wrote, and links to where more is to be seen.

It knows where a stage leaves its figures, and nothing about what they mean; a stage that writes one more figure shows one more row.
The keys `<stage>-table`, `<stage>-picture`, `<stage>-link` stay the same, so that the UI keeps each one's history.
"""

import base64
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from tasks.edges.settings import ROOT, settings

ROWS_SHOWN = 80
PICTURE_BYTES = 400_000  # each run keeps its pictures in Prefect's database

# Per stage: the JSON files with its figures, the key inside them that is drawn, and the folders that may hold pictures.
FIGURES = {
    "ingest": ("data/raw/ledger.json",),
    "validate": ("data/reports/validate/summary.json",),
    "features": ("data/features/gaps.json",),
    "train": ("data/forecasts/*/metrics.json",),
    "ensemble": ("data/reports/ensemble/summary.json",),
    "explain": ("data/reports/explain/*.json",),
    "quantize": ("models/quantized/decision.json",),
    "package": ("models/release/manifest.json", "models/release/provenance.json"),
    "promote": ("data/decisions/promote/decision.json",),
    "monitor": ("data/reports/monitor/*.json",),
    "retrain": ("data/decisions/retrain/decision.json",),
}
PICTURES = {
    "ensemble": "data/reports/ensemble",
    "explain": "data/reports/explain",
    "promote": "data/decisions/promote",
    "monitor": "data/reports/monitor",
    "retrain": "data/decisions/retrain",
    "validate": "data/reports/validate",
}


def publish(stage: str, root: Path = ROOT) -> None:
    """Create the artifacts of *stage* in the run that we are in."""
    contents = figures(stage, root)
    create_table_artifact(key=f"{stage}-table", table=table(contents), description=f"What `{stage}` wrote: {', '.join(contents) or 'no figures'}.")
    create_markdown_artifact(key=f"{stage}-picture", markdown=picture(stage, contents, root), description=f"`{stage}` at a glance.")
    for text, address in links(stage).items():
        create_link_artifact(key=f"{stage}-link", link=address, link_text=text)


def figures(stage: str, root: Path = ROOT) -> dict[str, Any]:
    """Content of the stage's JSON files, by path relative to *root*; those that are there."""
    paths = [path for pattern in FIGURES[stage] for path in sorted(root.glob(pattern))]
    return {str(path.relative_to(root)): json.loads(path.read_text()) for path in paths}


def table(contents: dict[str, Any]) -> list[dict[str, str]]:
    """One row per figure of a single file; several files of a kind stand side by side, one column each."""
    if not contents:
        return [{"figure": "none", "value": "this stage left no figures"}]
    if len(contents) == 1:
        rows = [{"figure": name, "value": _shown(value)} for name, value in _leaves(next(iter(contents.values())))]
        return _capped(rows)
    columns = {_label(path, contents): dict(_leaves(content)) for path, content in contents.items()}
    names = dict.fromkeys(name for leaves in columns.values() for name in leaves)
    return _capped([{"figure": name, **{c: _shown(leaves[name]) for c, leaves in columns.items() if name in leaves}} for name in names])


def picture(stage: str, contents: dict[str, Any], root: Path = ROOT) -> str:
    """Markdown with the stage's own picture when it drew one, else bars of its figures; the image stands in the text."""
    for path in sorted((root / PICTURES[stage]).rglob("*.png")) if stage in PICTURES else []:
        if path.stat().st_size <= PICTURE_BYTES:
            return _image("image/png", path.read_bytes(), path.stem)
    title, values = drawn(contents)
    if not values:
        return f"`{stage}` left no figures to draw."
    return _image("image/svg+xml", bars(title, values).encode(), title)


def links(stage: str) -> dict[str, str]:
    """Where more is to be seen, while `tidemill up` runs."""
    s = settings()
    if stage == "train":
        return {"Runs in MLflow": s.mlflow_uri if s.mlflow_uri.startswith("http") else f"http://{s.host}:{s.mlflow_port}"}
    return {"What the service serves": f"http://{s.host}:{s.service_port}/api/v1/models"} if stage == "promote" else {}


def drawn(contents: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """The figures worth bars: the first that several files share, else the largest group of numbers of one kind in one place."""
    if len(contents) > 1:
        columns = {_label(path, contents): dict(_leaves(content)) for path, content in contents.items()}
        shared = [name for name in next(iter(columns.values())) if all(_is_number(leaves.get(name)) for leaves in columns.values())]
        return (shared[0], {column: float(leaves[shared[0]]) for column, leaves in columns.items()}) if shared else ("", {})
    groups: dict[str, dict[str, float]] = {}
    for name, value in _leaves(next(iter(contents.values()), {})):
        if _is_number(value):
            groups.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = float(value)
    if not groups:
        return "", {}
    title = max(groups, key=lambda group: (len(groups[group]), group))
    return title or "figures", dict(list(groups[title].items())[:ROWS_SHOWN])


def bars(title: str, values: dict[str, float]) -> str:
    """Horizontal bars as SVG, longest value full width."""
    widest = max(map(abs, values.values())) or 1.0
    height = 34 + 22 * len(values)
    lines = [
        f'<text x="150" y="{48 + 22 * i}" text-anchor="end">{escape(name[:24])}</text>'
        f'<rect x="158" y="{36 + 22 * i}" width="{360 * abs(value) / widest:.1f}" height="15" fill="{"#2463a6" if value >= 0 else "#c8641e"}"/>'
        f'<text x="{164 + 360 * abs(value) / widest:.1f}" y="{48 + 22 * i}">{value:.6g}</text>'
        for i, (name, value) in enumerate(values.items())
    ]
    style = 'font-family="sans-serif" font-size="12" fill="#1f2933"'
    head = f'<rect width="640" height="{height}" fill="white"/><text x="8" y="20" font-weight="bold">{escape(title)}</text>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" {style}>{head}{"".join(lines)}</svg>'


def _image(kind: str, content: bytes, title: str) -> str:
    return f"![{title}](data:{kind};base64,{base64.b64encode(content).decode()})"


def _leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Plain values with their dotted names; a list counts its places, a list of plain values is one value."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, f"{prefix}{key}.")
    elif isinstance(content, list) and any(isinstance(value, dict | list) for value in content):
        for i, value in enumerate(content):
            yield from _leaves(value, f"{prefix}{i}.")
    else:
        yield prefix.removesuffix("."), content


def _label(path: str, contents: dict[str, Any]) -> str:
    """The part of *path* in which it differs from the others: a model's folder, or the file's name."""
    parts = [Path(other).parent.name for other in contents]
    return Path(path).parent.name if len(set(parts)) == len(parts) else Path(path).stem


def _capped(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    rest = len(rows) - ROWS_SHOWN
    return rows if rest <= 0 else [*rows[:ROWS_SHOWN], {"figure": f"... and {rest} more, in the file"}]


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
