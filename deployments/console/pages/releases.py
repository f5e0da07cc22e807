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
    render_element,
    render_image,
    render_link,
    render_page,
    render_section,
    render_table,
)
from deployments.console.pdf import write_pdf
from deployments.console.theme import BLUE, MUTED, ORANGE
from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.explain import ExplainSummary, FeatureImportances
from tasks.core.reports.package import CARD_NAME, PACKAGED_REPORTS
from tasks.edges.artifacts import ReportT, read_report, write_text
from tasks.edges.champions import ChampionRecord, render_changelog
from tasks.edges.registry import read_journal
from tasks.edges.release_files import get_release_folder
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings
from tasks.release.kept import KnownRelease, get_release_record, list_releases

_DRAWN = 12  # releases in the chart; with more there is no room for their names


class CardOfRelease(NamedTuple):
    """A release that was champion, as it is known now; its last line in the journal; its folder."""

    known: KnownRelease
    record: ChampionRecord

    @property
    def folder(self) -> Path:
        """Where it is, while it is kept."""
        return get_release_folder(self.known.digest)

    @property
    def has_card(self) -> bool:
        """Whether its card can be shown."""
        return (self.folder / CARD_NAME).exists()

    @property
    def page(self) -> str:
        """Name of its page."""
        return f"{encode_name(self.known.version)}.html"

    def find_report(self, kind: type[ReportT]) -> ReportT | None:
        """A report that was packaged with it."""
        path = self.folder / PACKAGED_REPORTS / kind.PATH
        return read_report(path, kind) if path.exists() else None


def write_portal(dataset: str, *, with_pdf: bool = False) -> list[Path]:
    """Write the portal into TIDEMILL_HOME/docs/<dataset>; its paths, the index first.

    Pages of releases that are no longer kept stay as they were written.
    with_pdf: each card as a PDF, too. Raises SettingsError without a library that it needs.
    """
    folder = read_settings().home / "docs" / encode_name(dataset)
    releases = [
        CardOfRelease(known, get_release_record(dataset, known.digest)) for known in list_releases(dataset)
    ]
    kept = [release for release in releases if release.has_card]
    for release in kept:
        write_text(folder / release.page, render_card(release))
    written = {release.page for release in releases if (folder / release.page).exists()}
    write_text(folder / "index.html", _render_index(dataset, releases, written))
    pages = [folder / release.page for release in kept]
    return [folder / "index.html", *pages, *(map(write_pdf, pages) if with_pdf else ())]


def render_card(release: CardOfRelease) -> str:
    """The card of a kept release as a page, with the charts of its reports."""
    charts = _draw_charts(release)
    return render_page(
        f"{release.record.dataset} {release.known.version}",
        render_element("p", render_link("index.html", "All releases")),
        _render_markdown((release.folder / CARD_NAME).read_text()),
        *([render_section("Charts", *map(render_image, charts))] if charts else []),
    )


def _render_markdown(text: str) -> Markup:
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return render_element("div", Markup(body), "card")


def _draw_charts(release: CardOfRelease) -> list[Image]:
    charts = []
    if ensemble := release.find_report(EnsembleReport):
        charts += [draw_ensemble(ensemble), draw_intervals(ensemble)]
    importance, explained = release.find_report(FeatureImportances), release.find_report(ExplainSummary)
    if importance and importance.root and explained:
        charts.append(draw_importance(importance.root, explained.model))
        if explained.agreement:
            charts += [draw_methods(importance.root, explained.agreement), draw_shares(importance.root)]
    return charts


def _render_index(dataset: str, releases: Sequence[CardOfRelease], written: set[str]) -> str:
    rows = [_build_row(release, written) for release in releases]
    scored = [
        (release.known.version, report, release.known.model)
        for release in reversed(releases[:_DRAWN])
        if (report := release.find_report(EnsembleReport)) is not None
    ]
    return render_page(
        f"{dataset}: releases",
        render_element("h1", f"{dataset}: releases"),
        render_element("p", "Every release that was champion, the newest first.", "lead"),
        render_table(rows),
        *([render_section("Scores and coverage", render_image(_draw_scores(scored)))] if scored else []),
        *([_render_models([(v, report) for v, report, _ in scored])] if scored else []),
        _render_markdown(render_changelog(dataset, read_journal(dataset))),
    )


def _render_models(scored: Sequence[tuple[str, EnsembleReport]]) -> Markup:
    """What each model has scored in the walk of each release; the lowest of a release is bold."""
    names = dict.fromkeys(name for _, report in reversed(scored) for name in report.scores)
    best = {
        version: min((s.primary for s in report.scores.values() if s.primary is not None), default=None)
        for version, report in scored
    }

    def render_score(version: str, report: EnsembleReport, name: str) -> object:
        score = report.scores.get(name)
        if score is None or score.primary is None:
            return Markup("")
        return render_element("b", score.primary) if score.primary == best[version] else score.primary

    rows = [{"model": name, **{v: render_score(v, r, name) for v, r in scored}} for name in names]
    lead = (
        f"Mean {scored[-1][1].primary_score} over the walk-forward cutoffs of each release, which are not the"
        " same from one release to the next; the lowest of a release is bold."
    )
    return render_section("Models by release", render_element("p", lead, "lead"), render_table(rows))


def _build_row(release: CardOfRelease, written: set[str]) -> dict[str, object]:
    known, report, decision = release.known, release.find_report(EnsembleReport), release.record.decision
    scores = None if report is None else report.scores.get(known.model)
    return {
        "version": render_link(release.page, known.version) if release.page in written else known.version,
        "state": "champion" if known.is_champion else "kept" if known.is_kept else "deleted",
        "model": known.model,
        "digest": known.digest[:12],
        "since": known.promoted_at,
        "by": known.by,
        "seen until": known.seen_until,
        "score": None if report is None else report.primary_score,
        "walk-forward": None if scores is None else scores.primary,
        "gate's rows": None if scores is None else scores.primary_gate,
        "coverage": None if report is None else report.coverage.overall,
        "gain at the gate": None if decision.gain_frac is None else f"{decision.gain_frac:.1%}",
    }


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
