"""What a stage shows in Prefect's UI: a table and a picture from the files it wrote, and links to
where more is to be seen.

It knows where a stage leaves its figures, and nothing about what they mean; a stage that writes one
more figure shows one more row. The keys `<dataset>-<stage>-table`, `-picture` and `-link` stay the
same, so that the UI keeps the history of each.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from tasks.edges.current import is_current
from tasks.edges.params import read_dataset
from tasks.edges.settings import ROOT, read_settings

ROWS_SHOWN = 80
PICTURE_BYTES = 400_000  # each run keeps its pictures in Prefect's database


class StageArtifacts(NamedTuple):
    """What a stage leaves to be seen. figures: its JSON file, or a glob for several of a kind.
    drawn: figures worth bars, `*` is their label.
    """

    figures: str
    drawn: tuple[str, ...]
    pictures: str = ""  # a folder in which it draws itself


SHOWN = {
    "ingest": StageArtifacts("data/raw/ledger.json", ("totals.*",)),
    "validate": StageArtifacts("data/reports/validate/summary.json", ("received", "clean", "quarantined")),
    "features": StageArtifacts("data/features/gaps.json", ("*.n_steps", "*.n_gap_steps")),
    "train": StageArtifacts("data/forecasts/*/metrics.json", ("*.overall.primary_*",)),
    "ensemble": StageArtifacts("data/reports/ensemble/summary.json", ("weights.*",), "data/reports/ensemble"),
    "explain": StageArtifacts(
        "data/reports/explain/importance.json", ("*.mean_abs_part",), "data/reports/explain"
    ),
    "quantize": StageArtifacts("models/quantized/decision.json", ("parity_sd.*",)),
    "package": StageArtifacts("models/release/provenance.json", ("bento_bytes.*",)),
    "promote": StageArtifacts(
        "data/decisions/promote/decision.json", ("mean_loss.*",), "data/decisions/promote"
    ),
    "monitor": StageArtifacts(
        "data/reports/monitor/report.json",
        ("by_step.*.coverage_frac", "drift.streams.*.statistic"),
        "data/reports/monitor",
    ),
    "retrain": StageArtifacts("data/decisions/retrain/decision.json", ("facts.*",)),
}
# Keys that name an entry of a list
_NAMES = ("series_id", "stream", "file", "feature", "year", "step", "digest")


def publish_artifacts(stage: str, root: Path = ROOT) -> None:
    """Create the artifacts of *stage* in the run that we are in."""
    contents = read_figures(stage, root)
    create_table_artifact(
        key=build_artifact_key(stage, "table"),
        table=build_table(contents),
        description=f"What `{stage}` wrote: {SHOWN[stage].figures}.",
    )
    create_markdown_artifact(
        key=build_artifact_key(stage, "picture"),
        markdown=render_chart(stage, contents, root),
        description=f"`{stage}` at a glance.",
    )
    for text, address in list_links(stage).items():
        create_link_artifact(key=build_artifact_key(stage, "link"), link=address, link_text=text)


def build_artifact_key(stage: str, kind: str) -> str:
    """Prefect's key of what a stage of the current dataset shows: small letters, digits, dashes;
    unlike any other dataset's.
    """
    dataset = read_dataset()
    plain = re.sub("[^a-z0-9]", "-", dataset.lower())
    unlike = (
        "" if plain.replace("-", "_") == dataset else f"-{hashlib.sha256(dataset.encode()).hexdigest()[:6]}"
    )
    return f"{plain}{unlike}-{stage}-{kind}"


def read_figures(stage: str, root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The stage's figures by dotted name; of several files of a kind by the folder each lies in.

    Empty where it has not run.
    """
    dataset = read_dataset(root)
    paths = sorted(
        path
        for path in root.glob(SHOWN[stage].figures)
        if is_current(str(path.relative_to(root)), dataset, root)
    )
    return {path.parent.name: dict(_iterate_leaves(json.loads(path.read_text()))) for path in paths}


def build_table(contents: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """One row per figure; several files of a kind stand side by side, a column each."""
    if not contents:
        return [{"figure": "none", "value": "this stage left no figures"}]
    columns = contents if len(contents) > 1 else {"value": next(iter(contents.values()))}
    names = dict.fromkeys(name for leaves in columns.values() for name in leaves)
    rows = [
        {"figure": name, **{c: _format_value(leaves.get(name, "")) for c, leaves in columns.items()}}
        for name in names
    ]
    rest = len(rows) - ROWS_SHOWN
    return rows if rest <= 0 else [*rows[:ROWS_SHOWN], {"figure": f"... and {rest} more, in the file"}]


def render_chart(stage: str, contents: dict[str, dict[str, Any]], root: Path = ROOT) -> str:
    """Markdown with the stage's own pictures when it drew some, as many as PICTURE_BYTES hold,
    else bars of its figures; the images stand in the text.
    """
    own, left = [], PICTURE_BYTES
    for path in sorted((root / SHOWN[stage].pictures).glob("*.png")) if SHOWN[stage].pictures else []:
        if path.stat().st_size <= left:
            left -= path.stat().st_size
            own.append(_render_image("image/png", path.read_bytes(), path.stem))
    if own:
        return "\n\n".join(own)
    title, values = select_bars(stage, contents)
    return (
        _render_image("image/svg+xml", render_bars(title, values).encode(), title)
        if values
        else f"`{stage}` left no figures to draw."
    )


def list_links(stage: str) -> dict[str, str]:
    """Where more is to be seen, while `tidemill up` runs."""
    s = read_settings()
    if stage == "train":
        return {
            "Runs in MLflow": (
                s.mlflow_uri if s.mlflow_uri.startswith("http") else f"http://{s.host}:{s.mlflow_port}"
            )
        }
    return (
        {"What the service serves": f"http://{s.host}:{s.service_port}/api/v1/models"}
        if stage == "promote"
        else {}
    )


def select_bars(stage: str, contents: dict[str, dict[str, Any]]) -> tuple[str, dict[str, float]]:
    """Title and values of the stage's bars, by label."""
    several = len(contents) > 1 or "*" in SHOWN[stage].figures
    leaves = {
        f"{c}.{name}" if several else name: value
        for c, named in contents.items()
        for name, value in named.items()
    }
    values: dict[str, float] = {}
    for wanted in SHOWN[stage].drawn:
        pattern = re.compile(re.escape(wanted).replace(r"\*", "(.+?)"))
        found = {
            " ".join(match.groups()) or name: value
            for name, value in leaves.items()
            if (match := pattern.fullmatch(name))
        }
        several_kinds = len(SHOWN[stage].drawn) > 1 and "*" in wanted
        values |= {
            f"{label} {wanted.rpartition('.')[2]}" if several_kinds else label: float(v)
            for label, v in found.items()
            if _is_number(v)
        }
    return f"{stage}: {', '.join(SHOWN[stage].drawn)}", dict(list(values.items())[:ROWS_SHOWN])


def render_bars(title: str, values: dict[str, float]) -> str:
    """Horizontal bars as SVG, longest value full width."""
    widest = max(map(abs, values.values())) or 1.0
    height = 34 + 22 * len(values)
    lines = [
        f'<text x="150" y="{48 + 22 * i}" text-anchor="end">{escape(name[:24])}</text><rect x="158"'
        f' y="{36 + 22 * i}" width="{360 * abs(value) / widest:.1f}" height="15"'
        f' fill="{"#2463a6" if value >= 0 else "#c8641e"}"/><text x="{164 + 360 * abs(value) / widest:.1f}"'
        f' y="{48 + 22 * i}">{value:.6g}</text>'
        for i, (name, value) in enumerate(values.items())
    ]
    style = 'font-family="sans-serif" font-size="12" fill="#1f2933"'
    head = (
        f'<rect width="640" height="{height}" fill="white"/><text x="8" y="20"'
        f' font-weight="bold">{escape(title)}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}"'
        f" {style}>{head}{''.join(lines)}</svg>"
    )


def _render_image(kind: str, content: bytes, title: str) -> str:
    return f"![{title}](data:{kind};base64,{base64.b64encode(content).decode()})"


def _iterate_leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Plain values with their dotted names; entries of a list go by their name or their place, a
    list of plain values is one value.
    """
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _iterate_leaves(value, f"{prefix}{key}.")
    elif isinstance(content, list) and any(isinstance(value, dict | list) for value in content):
        for i, value in enumerate(content):
            name = next((value[key] for key in _NAMES if key in value), i) if isinstance(value, dict) else i
            yield from _iterate_leaves(value, f"{prefix}{name}.")
    else:
        yield prefix.removesuffix("."), content


def _format_value(value: Any) -> str:
    return (
        f"{value:.6g}"
        if isinstance(value, float)
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
