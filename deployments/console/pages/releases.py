"""The portal of a dataset's releases: one page that compares them, and the card of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deployments.console.charts.canvas import draw_panels
from deployments.console.charts.ensemble import draw_ensemble, draw_intervals
from deployments.console.charts.explain import draw_importance, draw_methods, draw_shares
from deployments.console.html import (
    Image,
    Markup,
    join_parts,
    render_element,
    render_image,
    render_link,
    render_list,
    render_page,
    render_section,
    render_table,
)
from deployments.console.theme import BLUE, MUTED, ORANGE
from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.explain import ExplainSummary, FeatureImportances
from tasks.core.reports.package import CARD_NAME, PACKAGED_REPORTS
from tasks.edges.artifacts import ReportT, read_report, write_text
from tasks.edges.registry import ChampionRecord, get_release_folder, read_champion, read_journal
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings

_DRAWN = 12  # releases in the chart; with more there is no room for their names


class ReleaseFacts(NamedTuple):
    """A promoted release: its last line in the journal, and its folder where it is kept."""

    record: ChampionRecord
    folder: Path | None

    @property
    def page(self) -> str:
        """Name of its page."""
        return f"{encode_name(self.record.version)}.html"

    def find_report(self, kind: type[ReportT]) -> ReportT | None:
        """A report that was packaged with it."""
        path = None if self.folder is None else self.folder / PACKAGED_REPORTS / kind.PATH
        return None if path is None or not path.exists() else read_report(path, kind)


def list_releases(dataset: str) -> list[ReleaseFacts]:
    """Each release that was champion, the newest promotion first."""
    newest = {record.digest: record for record in read_journal(dataset)}
    found = []
    for record in sorted(newest.values(), key=lambda r: r.promoted_as_of, reverse=True):
        folder = get_release_folder(record.digest)
        found.append(ReleaseFacts(record, folder if (folder / CARD_NAME).exists() else None))
    return found


def write_portal(dataset: str) -> list[Path]:
    """Write the portal into TIDEMILL_HOME/docs/<dataset>; its paths, the index first.

    Pages of releases that are no longer kept stay as they were written.
    """
    folder = read_settings().home / "docs" / encode_name(dataset)
    releases = list_releases(dataset)
    kept = [release for release in releases if release.folder is not None]
    for release in kept:
        write_text(folder / release.page, render_card(release))
    written = {release.page for release in releases if (folder / release.page).exists()}
    write_text(folder / "index.html", _render_index(dataset, releases, written))
    return [folder / "index.html", *(folder / release.page for release in kept)]


def render_card(release: ReleaseFacts) -> str:
    """The card of a kept release as a page, with the charts of its reports."""
    from markdown_it import MarkdownIt

    assert release.folder is not None
    text = (release.folder / CARD_NAME).read_text()
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    record = release.record
    charts = _draw_charts(release)
    return render_page(
        f"{record.dataset} {record.version}",
        render_element("p", render_link("index.html", "All releases")),
        render_element("div", Markup(body), "card"),
        *([render_section("Charts", *map(render_image, charts))] if charts else []),
    )


def _draw_charts(release: ReleaseFacts) -> list[Image]:
    charts = []
    if ensemble := release.find_report(EnsembleReport):
        charts += [draw_ensemble(ensemble), draw_intervals(ensemble)]
    importance, explained = release.find_report(FeatureImportances), release.find_report(ExplainSummary)
    if importance and importance.root and explained:
        charts.append(draw_importance(importance.root, explained.model))
        if explained.agreement:
            charts += [draw_methods(importance.root, explained.agreement), draw_shares(importance.root)]
    return charts


def _render_index(dataset: str, releases: Sequence[ReleaseFacts], written: set[str]) -> str:
    champion = read_champion(dataset)
    rows = [_build_row(release, champion, written) for release in releases]
    scored = [
        (release.record.version, report, release.record.model)
        for release in reversed(releases[:_DRAWN])
        if (report := release.find_report(EnsembleReport)) is not None
    ]
    reasons = [
        join_parts(render_element("code", release.record.version), f" {release.record.decision.reason}")
        for release in releases
    ]
    return render_page(
        f"{dataset}: releases",
        render_element("h1", f"{dataset}: releases"),
        render_element("p", "Every release that was champion, the newest promotion first.", "lead"),
        render_table(rows),
        *([render_section("Scores and coverage", render_image(_draw_scores(scored)))] if scored else []),
        render_section("Why each was promoted", render_list(reasons)),
    )


def _build_row(
    release: ReleaseFacts, champion: ChampionRecord | None, written: set[str]
) -> dict[str, object]:
    record, report = release.record, release.find_report(EnsembleReport)
    scores = None if report is None else report.scores.get(record.model)
    is_champion = champion is not None and champion.digest == record.digest
    return {
        "version": render_link(release.page, record.version) if release.page in written else record.version,
        "state": "champion" if is_champion else "kept" if release.folder else "deleted",
        "model": record.model,
        "digest": record.digest[:12],
        "promoted with data as of": record.promoted_as_of,
        "seen until": record.seen_until,
        "score": None if report is None else report.primary_score,
        "walk-forward": None if scores is None else scores.primary,
        "gate's rows": None if scores is None else scores.primary_gate,
        "coverage": None if report is None else report.coverage.overall,
        "gate": f"{record.decision.decision}, gain {_format_gain(record)}",
    }


def _format_gain(record: ChampionRecord) -> str:
    gain = record.decision.gain_frac
    return "not compared" if gain is None else f"{gain:.1%}"


def _draw_scores(scored: Sequence[tuple[str, EnsembleReport, str]]) -> Image:
    """Score and coverage of each release that has its report, in the order of promotion."""
    versions, reports = [version for version, *_ in scored], [report for _, report, _ in scored]
    level = reports[-1].coverage.level

    def draw_score(axes: Any) -> None:
        sides = {"release": [model for *_, model in scored], "its baseline": [r.baseline for r in reports]}
        for (label, models), color in zip(sides.items(), (BLUE, MUTED), strict=True):
            scores = [report.scores.get(model) for report, model in zip(reports, models, strict=True)]
            losses = [float("nan") if s is None or s.primary is None else s.primary for s in scores]
            axes.plot(versions, losses, "o-", color=color, label=label)
        axes.set_title(f"{reports[-1].primary_score}, walk-forward")
        axes.legend()

    def draw_coverage(axes: Any) -> None:
        shares = [report.coverage.overall for report in reports]
        axes.plot(versions, [float("nan") if s is None else s for s in shares], "o-", color=BLUE)
        if level is not None:
            axes.axhline(level, color=ORANGE, linewidth=1, linestyle="--")
        axes.set_title(f"share of outcomes inside{'' if level is None else f'; {level:g} is promised'}")

    return draw_panels("scores and coverage by release", [draw_score, draw_coverage], 2, (10.5, 3.2))
