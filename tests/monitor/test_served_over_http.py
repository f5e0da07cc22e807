"""What the champion forecasts since its promotion is what its service answers as of then; the
report is that of plain loops.

One value comes late, one is corrected. The answers were asked for over HTTP, each as of a past
time, so that they decide nothing.
"""

import math
from contextlib import nullcontext
from datetime import timedelta

import polars as pl
import pytest
from homes import at_home, small_root, write_clean
from servers import serving
from small_release import START, cutoff_at, small_rows

from deployments.console.charts.stages import draw_monitor_charts
from deployments.console.pages.monitor import EVIDENTLY, render_monitor, write_evidently
from tasks.core.frames import SERIES, get_newest_known_at
from tasks.core.reports.monitor import MonitorReport
from tasks.edges.artifacts import read_report
from tasks.edges.registry import get_champion_folder, publish_rows_file, read_champion
from tasks.edges.served import read_served
from tasks.monitor.__main__ import main
from tasks.promote.__main__ import main as promote

FIRST, LAST = 434, 554  # cutoffs since the promotion; the release has seen up to day 299
LATE, CORRECTED = ("north", LAST - 2), ("south", 500)


def appended():
    """All days; one value comes three days late, an old one is corrected upwards."""
    rows = small_rows(LAST + 1)
    late = (pl.col("series_id") == LATE[0]) & (pl.col("event_time") == START + timedelta(days=LATE[1]))
    rows = rows.with_columns(
        known_at=pl.when(late).then(pl.col("known_at") + timedelta(days=3)).otherwise("known_at")
    )
    old = rows.filter(
        (pl.col("series_id") == CORRECTED[0]) & (pl.col("event_time") == START + timedelta(days=CORRECTED[1]))
    )
    return SERIES.conform(
        pl.concat([rows, old.with_columns(pl.col("load") * 1.3, pl.col("known_at") + timedelta(days=20))])
    )


def known_by(day):
    return appended().filter(pl.col("known_at") <= cutoff_at(day))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A champion, its service, and what that answered as of each cutoff since the promotion."""
    folder = tmp_path_factory.mktemp("monitor")
    with at_home(folder / "home") as home:
        gate = {"gate_steps": FIRST - 299}
        root = small_root(
            folder / "root", known_by(FIRST), challenger={"weights": {"ridge": 1.0}, **gate}, baseline=gate
        )
        promote(root, deliver=nullcontext)
        write_clean(root, appended())
        publish_rows_file("small", root / "data/clean/rows.parquet")
        with serving(home, TIDEMILL_RELEASE=str(get_champion_folder(read_champion("small")))) as server:
            for day in range(FIRST, LAST + 1):
                reply = server.predict(series_id=["north", "south"], as_of=cutoff_at(day).isoformat())
                assert reply.status_code == 200, reply.text
        yield root


def by_hand(rows):
    """The figures of what was answered, with dictionaries and loops; squared error is the
    primary loss."""
    vintages = {}
    for r in rows.sort("known_at").iter_rows(named=True):
        vintages.setdefault((r["series_id"], r["event_time"]), []).append((r["known_at"], r["load"]))
    out = {}
    for f in read_served("small").filter(pl.col("cutoff") < get_newest_known_at(rows)).iter_rows(named=True):
        s = out.setdefault(
            f["step"],
            {
                "n_steps": 0,
                "n_open": 0,
                "n_late": 0,
                "n_corrected": 0,
                "losses": [],
                "absolute": [],
                "errors": [],
                "inside": [],
            },
        )
        s["n_steps"] += 1
        known = vintages.get((f["series_id"], f["event_time"]))
        if known is None:
            s["n_open"] += 1
            continue
        y = known[-1][1]
        s["n_late"] += known[0][0] > f["event_time"] + timedelta(days=1)
        s["n_corrected"] += y != known[0][1]
        s["losses"].append((y - f["y_hat"]) ** 2)
        s["errors"].append(f["y_hat"] - y)
        s["absolute"].append(abs(y - f["y_hat"]))
        s["inside"].append(f["q_0.1"] <= y <= f["q_0.9"])
    return out


def same(row, hand):
    assert {k: getattr(row, k) for k in ("n_steps", "n_open", "n_late", "n_corrected")} == {
        k: hand[k] for k in ("n_steps", "n_open", "n_late", "n_corrected")
    }
    assert row.n_known == len(hand["losses"])
    for name, values in {
        "loss": hand["losses"],
        "mae": hand["absolute"],
        "bias": hand["errors"],
        "coverage_frac": hand["inside"],
    }.items():
        assert math.isclose(getattr(row, name), sum(values) / len(values), rel_tol=1e-9), name


def report_on(root, rows):
    write_clean(root, rows)
    publish_rows_file("small", root / "data/clean/rows.parquet")
    main(root)
    return read_report(root / MonitorReport.PATH, MonitorReport)


def test_what_has_not_come_true_stays_open(world):
    report, hand = report_on(world, known_by(540)), by_hand(known_by(540))
    assert [row.n_open for row in report.by_step] == [0, 2, 4, 6, 8]
    for row in report.by_step:
        same(row, hand[row.step])


def test_late_and_corrected_values_count_as_they_are_now(world):
    report, hand = report_on(world, appended()), by_hand(appended())
    assert report.n_cutoffs == LAST - FIRST + 1
    # A step ago to five steps ago
    assert (report.overall.n_late, report.overall.n_corrected) == (5, 5)
    for row in report.by_step:
        same(row, hand[row.step])
    losses = [v for s in hand.values() for v in s["losses"]]
    gate = read_champion("small").decision.mean_loss.challenger
    assert report.champion.error_ratio == pytest.approx(sum(losses) / len(losses) / gate, rel=1e-9)
    assert report.verdict in {"measured", "degraded", "drift"}


def test_answers_as_of_a_time_are_counted_and_are_no_service(world):
    served = report_on(world, appended()).served
    n = LAST - FIRST + 1
    assert served.answers.model_dump() == {
        "n_answers": n,
        "n_news": 0,
        "n_as_of": n,
        "n_own_history": 0,
        "n_unmarked": 0,
    }
    assert (served.overall.n_steps, served.by_digest) == (0, ())


def test_there_is_a_page_to_look_at(world):
    report_on(world, appended())
    write_evidently(world, world / EVIDENTLY)
    assert "north:load" in (world / EVIDENTLY).read_text()
    *charts, coverage = draw_monitor_charts(world)  # by step, the loss, over what the inputs explain
    assert len(charts) == 3
    assert all(len(chart.content) > 5_000 for chart in (*charts, coverage))
    assert coverage.title.startswith("coverage of the 80% interval")
    page = render_monitor(world)
    assert "<td class=n>5</td>" in page
    assert f"{LAST - FIRST + 1} as of a time asked for" in page
    assert EVIDENTLY in page


def test_with_nothing_new_the_report_stands(world, capsys):
    report_on(world, appended())
    before = {
        path.name: (path.stat().st_mtime_ns if path.name != "report.json" else 0, path.read_bytes())
        for path in (world / MonitorReport.PATH).parent.iterdir()
    }
    capsys.readouterr()
    report_on(world, appended())
    assert "nothing new" in capsys.readouterr().out
    assert {
        path.name: (path.stat().st_mtime_ns if path.name != "report.json" else 0, path.read_bytes())
        for path in (world / MonitorReport.PATH).parent.iterdir()
    } == before
