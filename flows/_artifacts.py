"""A stage's artifacts in Prefect's UI: a table and a chart from its report, and links.

It knows which report a stage writes, and nothing about what the figures mean; a stage that writes
one more figure shows one more row. The keys `<dataset>-<stage>-table`, `-picture` and `-link` stay
the same, so that the UI keeps the history of each.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from tasks.core.reports.base import Figure, StageFile
from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.explain import FeatureImportances
from tasks.core.reports.features import GapLedger
from tasks.core.reports.ingest import IngestLedger
from tasks.core.reports.monitor import MonitorReport
from tasks.core.reports.package import Provenance
from tasks.core.reports.promote import GateDecision
from tasks.core.reports.quantize import QuantizeDecision
from tasks.core.reports.retrain import RetrainDecision
from tasks.core.reports.train import MetricsReport
from tasks.core.reports.validate import ValidationSummary
from tasks.edges.artifacts import read_report
from tasks.edges.current import is_current
from tasks.edges.params import read_dataset
from tasks.edges.safe_names import encode_slug
from tasks.edges.settings import ROOT, read_settings

ROWS_SHOWN = 80
CHART_BYTES = 400_000  # each run keeps its charts in Prefect's database

Figures = Mapping[str, Figure]  # by dotted name


class StageArtifacts(NamedTuple):
    """What the UI shows of a stage.

    report: its kind.
    drawn: figures to draw as bars; the part that matches `*` is the label.
    """

    report: type[StageFile]
    drawn: tuple[str, ...]

    @property
    def pattern(self) -> str:
        """A glob for the report's files, relative to the root: one per model, or the only one."""
        return self.report.PATH.replace("<model>", "*")


SHOWN = {
    "ingest": StageArtifacts(IngestLedger, ("totals.*",)),
    "validate": StageArtifacts(ValidationSummary, ("received", "clean", "quarantined")),
    "features": StageArtifacts(GapLedger, ("*.n_steps", "*.n_gap_steps")),
    "train": StageArtifacts(MetricsReport, ("*.overall.primary_*",)),
    "ensemble": StageArtifacts(EnsembleReport, ("weights.*",)),
    "explain": StageArtifacts(FeatureImportances, ("*.mean_abs_part",)),
    "quantize": StageArtifacts(QuantizeDecision, ("parity_sd.*",)),
    "package": StageArtifacts(Provenance, ("bento_bytes.*",)),
    "promote": StageArtifacts(GateDecision, ("mean_loss.*",)),
    "monitor": StageArtifacts(MonitorReport, ("by_step.*.coverage_frac", "drift.streams.*.statistic")),
    "retrain": StageArtifacts(RetrainDecision, ("facts.*",)),
}


def publish_artifacts(stage: str, root: Path = ROOT) -> None:
    """Create the artifacts of *stage* in the current flow run."""
    contents = read_figures(stage, root)
    create_table_artifact(
        key=build_artifact_key(stage, "table"),
        table=build_table(contents),
        description=f"What `{stage}` wrote: {SHOWN[stage].report.PATH}.",
    )
    create_markdown_artifact(
        key=build_artifact_key(stage, "picture"),
        markdown=render_charts(stage, contents, root),
        description=f"`{stage}` at a glance.",
    )
    for text, address in list_links(stage).items():
        create_link_artifact(key=build_artifact_key(stage, "link"), link=address, link_text=text)


def build_artifact_key(stage: str, kind: str) -> str:
    """Prefect's key of an artifact of a stage: small letters, digits and dashes.

    It differs between datasets.
    """
    return f"{encode_slug(read_dataset())}-{stage}-{kind}"


def read_figures(stage: str, root: Path = ROOT) -> dict[str, Figures]:
    """The stage's figures by the folder of their file, several where it writes several of a kind.

    Empty when it has not run.
    """
    shown, dataset = SHOWN[stage], read_dataset(root)
    paths = sorted(
        path for path in root.glob(shown.pattern) if is_current(str(path.relative_to(root)), dataset, root)
    )
    return {path.parent.name: read_report(path, shown.report).list_figures() for path in paths}


def build_table(contents: Mapping[str, Figures]) -> list[dict[str, str]]:
    """One row per figure; a column for each file where there are several of a kind."""
    if not contents:
        return [{"figure": "none", "value": "this stage wrote no figures"}]
    columns = contents if len(contents) > 1 else {"value": next(iter(contents.values()))}
    names = dict.fromkeys(name for figures in columns.values() for name in figures)
    rows = [
        {"figure": name, **{c: _format_figure(figures.get(name, "")) for c, figures in columns.items()}}
        for name in names
    ]
    rest = len(rows) - ROWS_SHOWN
    return rows if rest <= 0 else [*rows[:ROWS_SHOWN], {"figure": f"... and {rest} more, in the file"}]


def render_charts(stage: str, contents: Mapping[str, Figures], root: Path = ROOT) -> str:
    """Markdown with the stage's charts, as many as fit in CHART_BYTES; the images are in the text.

    A stage without charts gets bars of its figures.
    """
    from deployments.console.charts.stages import draw_stage
    from deployments.console.charts.svg import draw_bars

    charts, free_bytes = [], CHART_BYTES
    for chart in draw_stage(stage, root) if contents else []:
        if len(chart.content) <= free_bytes:
            free_bytes -= len(chart.content)
            charts.append(chart)
    if not charts:
        title, values = select_bars(stage, contents)
        charts = [draw_bars(title, values)] if values else []
    images = [f"![{chart.title}]({chart.address})" for chart in charts]
    return "\n\n".join(images) or f"`{stage}` wrote no figures to draw."


def list_links(stage: str) -> dict[str, str]:
    """Links to more about the stage, while `tidemill up` runs."""
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


def select_bars(stage: str, contents: Mapping[str, Figures]) -> tuple[str, dict[str, float]]:
    """Title and values of the stage's bars, by label."""
    shown = SHOWN[stage]
    has_several = len(contents) > 1 or "*" in shown.pattern
    figures = {
        f"{folder}.{name}" if has_several else name: value
        for folder, named in contents.items()
        for name, value in named.items()
    }
    values: dict[str, float] = {}
    for drawn_name in shown.drawn:
        pattern = re.compile(re.escape(drawn_name).replace(r"\*", "(.+?)"))
        has_suffix = len(shown.drawn) > 1 and "*" in drawn_name
        suffix = f" {drawn_name.rpartition('.')[2]}" if has_suffix else ""
        for name, value in figures.items():
            match = pattern.fullmatch(name)
            if match and isinstance(value, int | float) and not isinstance(value, bool):
                values[(" ".join(match.groups()) or name) + suffix] = float(value)
    return f"{stage}: {', '.join(shown.drawn)}", dict(list(values.items())[:ROWS_SHOWN])


def _format_figure(value: Figure) -> str:
    return (
        f"{value:.6g}"
        if isinstance(value, float)
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )
