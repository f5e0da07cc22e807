"""Pages of what stages left: all of them, of the current dataset alone, with nothing lost."""

import re
import shutil
import sys
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
import yaml
from homes import at_home, small_root
from reports import ensemble_report, monitor_report
from small_release import small_about, small_rows

from deployments.console.charts.explain import (
    draw_curves,
    draw_importance,
    draw_last,
    draw_methods,
    draw_shares,
)
from deployments.console.charts.monitor import draw_service_level
from deployments.console.charts.stages import draw_stage
from deployments.console.pages.monitor import render_monitor
from deployments.console.pages.releases import _render_models, write_portal
from deployments.console.pages.validation import render_validation
from deployments.console.pdf import write_pdf
from deployments.console.report import write_pages
from tasks.core.errors import SettingsError
from tasks.core.frames import SERIES
from tasks.core.reports.explain import ExplainSummary, FeatureImportance, FeatureImportances
from tasks.core.reports.monitor import LevelPoint, MonitorReport, ServiceLevel
from tasks.core.reports.package import CARD_NAME, PACKAGED_REPORTS
from tasks.edges.artifacts import write_frame, write_report
from tasks.edges.params import STAGES, read_about, read_dataset
from tasks.edges.registry import get_champion_folder, read_champion
from tasks.promote.__main__ import main as promote
from tasks.validate.__main__ import main as validate

START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path):
    with at_home(tmp_path / "home") as home:
        yield home


@pytest.fixture
def root(tmp_path, home):
    """A checkout in which promote has run."""
    root = small_root(tmp_path / "root", challenger={"weights": {"ridge": 1.0}})
    promote(root, deliver=nullcontext)
    return root


def test_pages_are_those_whose_inputs_are_there_and_the_first_links_to_the_others(root, home):
    write_report(root / MonitorReport.PATH, monitor_report())
    index, training, monitor = write_pages(root)
    assert [path.name for path in (index, training, monitor)] == [
        "index.html",
        "training.html",
        "monitor.html",
    ]
    assert {path.parent for path in (index, training, monitor)} == {home / "report"}
    shown = index.read_text()
    assert "<a href='monitor.html'>" in shown
    assert "Not there yet: data/reports/validate/summary.json" in shown
    assert "the challenger takes over" in shown
    (root / MonitorReport.PATH).unlink()
    assert write_pages(root) == [index, training]
    assert not monitor.exists(), "a page of reports that are gone is no page of this run"
    assert "monitor.html" not in index.read_text()


def test_pages_of_another_dataset_are_not_written(root, home):
    write_report(root / MonitorReport.PATH, monitor_report())
    stage = {
        "params": {"params.yaml": {"dataset": "other"}},
        "outs": [{"path": "data/reports/monitor"}, {"path": "data/decisions/promote"}],
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": {"monitor": stage}}))
    index, *others = write_pages(root)
    assert "monitor.html" not in {path.name for path in others}
    assert "the challenger takes over" not in index.read_text()


def test_pages_need_no_script_and_no_network(root):
    write_report(root / MonitorReport.PATH, monitor_report())
    for path in write_pages(root):
        page = path.read_text()
        assert "<script" not in page
        assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


def test_the_gates_chart_is_a_chart_and_a_stage_without_one_has_none(root):
    (losses,) = draw_stage("promote", root)
    assert losses.content.startswith(b"\x89PNG")
    assert len(losses.content) > 5_000
    without = set(STAGES) - {"ensemble", "explain", "promote", "monitor"}
    assert [draw_stage(stage, root) for stage in sorted(without)] == [[]] * len(without)


def test_the_same_figures_give_the_same_chart(root):
    assert draw_stage("promote", root) == draw_stage("promote", root)


def test_an_explanation_is_drawn_for_any_name_of_a_series():
    attributions = pl.DataFrame(
        {
            "series_id": "a/b c:ü",
            "cutoff": START,
            "is_last": True,
            "step": [1, 1, 5, 5],
            "event_time": START + timedelta(days=1),
            "feature": ["x", "y", "x", "y"],
            "part": [0.5, -0.25, 0.25, 0.0],
            "base": 1.0,
            "z_hat": [1.25, 1.25, 1.25, 1.25],
        },
        schema_overrides={"step": pl.Int32},
    )
    chart = draw_last(attributions, "a/b c:ü", small_about().target)
    assert chart.title.startswith("a/b c:ü: why the forecast of 2024-01-01")
    assert len(chart.content) > 10_000
    importance = [FeatureImportance(feature=f"f{i}", mean_abs_part=1 / (i + 1)) for i in range(30)]
    assert len(draw_importance(importance, "ridge").content) > 10_000
    by_method = {"by_step": [0.1] * 50, "by_member": {"ridge": 0.1, "har": 0.0}, "permutation": 0.2}
    importance = [row.model_copy(update=by_method) for row in importance]
    assert "order" in draw_methods(importance, {"permutation": 0.9}).title
    assert len(draw_shares(importance).content) > 10_000
    curves = pl.DataFrame(
        {"feature": ["x"] * 2, "value": [0.0, 1.0], "series_id": "a", "cutoff": START, "z_hat": 1.0}
    )
    assert len(draw_curves(curves).content) > 10_000


def test_the_portal_has_every_release_and_the_card_of_each_kept_one(root, home):
    champion = read_champion(read_dataset(root))
    folder = get_champion_folder(champion)
    (folder / CARD_NAME).write_text("# small: ridge\n\n| what | is |\n| --- | --- |\n| a | <b> |\n")
    importance = FeatureImportances((FeatureImportance(feature="z_last", mean_abs_part=1.0),))
    summary = ExplainSummary(
        model="ridge", n_series_now=1, n_last=1, n_sample=1, n_background=1, n_orders=1, n_features=1,
        max_abs_gap=0.0, series_last=("north",), unread=(),
    )  # fmt: skip
    for report in (importance, summary):
        path = folder / PACKAGED_REPORTS / report.PATH
        path.parent.mkdir(parents=True, exist_ok=True)
        write_report(path, report)
    index, card, printed = write_portal(champion.dataset, with_pdf=True)
    assert (printed.name, printed.read_bytes()[:5]) == (card.with_suffix(".pdf").name, b"%PDF-")
    assert index.parent == home / "docs" / champion.dataset
    shown = index.read_text()
    assert f"<a href='{card.name}'>{champion.version}</a>" in shown
    assert "<td>champion</td>" in shown
    page = card.read_text()
    assert "<td>&lt;b&gt;</td>" in page
    assert page.count("<img") == 1
    shutil.rmtree(folder)
    (again,) = write_portal(champion.dataset)
    assert f"href='{card.name}'" in again.read_text()
    assert card.exists()


def test_a_pdf_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(SettingsError, match="Install the package weasyprint, and Pango"):
        write_pdf(tmp_path / "card.html")


def test_the_portal_compares_every_model_of_every_release():
    releases = {"1.0.0": {"ridge": 0.5, "last_value": 0.7}, "1.1.0": {"ridge": 0.4, "lightgbm": 0.3}}
    page = _render_models([(version, ensemble_report(losses)) for version, losses in releases.items()])
    assert page.count("<b>") == 2
    assert "<b>0.5</b>" in page
    assert "<b>0.3</b>" in page
    assert re.findall(r"<tr><td>(\w+)</td>", page) == ["ridge", "lightgbm", "last_value"]


def test_the_monitors_page_hides_what_is_not_known(root):
    step = {**monitor_report().overall.model_dump(), "step": 1, "n_steps": 2, "n_open": 2}
    write_report(root / MonitorReport.PATH, monitor_report({}, by_step=[step], drift=None))
    page = render_monitor(root)
    assert "The champion&#x27;s own forecasts" in page
    assert "<td class=n>2</td>" in page
    assert "not known" not in page
    assert "Drift" not in page
    assert read_about(root).primary_score in page


def test_validates_page_has_counts_rules_quarantine_figures_and_gaps(tmp_path, home):
    root = small_root(tmp_path / "root")
    document = yaml.safe_load((root / "params.yaml").read_text())
    document["validate"] = {"max_quarantine_frac": 0.5, "columns": {"load": {"min": 0, "strict_min": True}}}
    (root / "params.yaml").write_text(yaml.safe_dump(document))
    times = [START + timedelta(days=day) for day in (0, 1, 2, 9)]
    rows = small_rows(4).filter(pl.col("series_id") == "north")
    rows = rows.with_columns(
        series_id=pl.lit("<script>"),
        event_time=pl.Series(times),
        known_at=pl.Series(times),
        load=pl.Series([5.0, -1.0, 5.0, 5.0]),
    )
    write_frame(root / "data/raw/rows.parquet", rows, SERIES)
    validate(root)
    page = render_validation(root)
    assert not re.search(r"(src|href|url\()", page)
    assert "<script>" not in page
    for text in (
        "3 clean",
        "1 in quarantine",
        "load is -1.0, not &gt; 0",
        "7 steps of the calendar without a row",
        "expect_column_values_to_be_between",
    ):
        assert text in page


def test_the_monitors_page_says_since_when_a_level_is_not_kept_and_what_is_not_watched(root):
    points = tuple(
        LevelPoint(event_time=START + timedelta(days=5 * i), value=0.8 - i / 50) for i in range(12)
    )
    level = ServiceLevel(
        figure="coverage",
        level=0.8,
        normal=0.8,
        n_blocks=12,
        block_steps=5,
        window_steps=25,
        band_low=0.7,
        band_high=0.9,
        statistic=6.5,
        limit=5.0,
        direction="low",
        since=START + timedelta(days=20),
        alarm_at=START + timedelta(days=35),
        points=points,
    )
    loss = ServiceLevel(
        figure="loss",
        level=None,
        normal=None,
        n_blocks=0,
        block_steps=5,
        window_steps=25,
        unwatched="3 steps of the gate have an outcome",
    )
    figures = {**monitor_report().overall.model_dump(), "n_steps": 2, "n_known": 2, "loss": 1.0, "mae": 1.0}
    step = {**figures, "step": 1, "bias": 0.0, "coverage_frac": 0.5}
    report = monitor_report({}, by_step=[step], overall=figures, service_levels=(loss, level))
    write_report(root / MonitorReport.PATH, report)
    page = render_monitor(root)
    assert "coverage of the 80% interval: low since 2024-01-21T00:00:00+00:00" in page
    assert "alarm on 2024-02-05T00:00:00+00:00" in page
    assert "loss: not watched, 3 steps of the gate have an outcome" in page
    assert len(draw_stage("monitor", root)) == 2
    assert draw_service_level(level).title == "coverage of the 80% interval of the last 25 steps of outcomes"
