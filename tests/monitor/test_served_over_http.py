"""250 forecasts served over HTTP as of past days, truth appended, one value late, one corrected: the report is that of plain loops."""

import math
from contextlib import nullcontext
from datetime import timedelta

import polars as pl
import pytest
from homes import at_home, small_root, write_clean
from servers import serving
from small_release import START, cutoff_at, small_rows

from tasks.core.frames import SERIES
from tasks.edges.artifacts import read_json
from tasks.edges.registry import champion_folder, read_champion
from tasks.edges.served import read_served
from tasks.monitor.__main__ import REPORT, main
from tasks.promote.__main__ import main as promote

ROWS = small_rows(480)
FIRST, LAST = 310, 434  # cutoffs served: 125 days of two series; the release has seen up to day 299
LATE, CORRECTED = ("north", 437), ("south", 400)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A champion, its service, and what it answered. Rows end with the last cutoff, so the newest steps are still open."""
    folder = tmp_path_factory.mktemp("monitor")
    known = up_to(LAST)
    with at_home(folder / "home") as home:
        root = small_root(
            folder / "root", known, challenger={"weights": {"ridge": 1.0}, "gate_steps": LAST - 299}, baseline={"gate_steps": LAST - 299}
        )
        promote(root, deliver=nullcontext)
        with serving(home, TIDEMILL_RELEASE=str(champion_folder(read_champion("small")))) as server:
            for day in range(FIRST, LAST + 1):
                for name in ("north", "south"):
                    reply = server.predict(series_id=name, as_of=cutoff_at(day).isoformat())
                    assert reply.status_code == 200, reply.text
        yield root


def up_to(day):
    return ROWS.filter(pl.col("event_time") <= START + timedelta(days=day))


def appended():
    """Five more days; one value comes three days late, an old one is corrected upwards."""
    rows = up_to(LAST + 5)
    late = (pl.col("series_id") == LATE[0]) & (pl.col("event_time") == START + timedelta(days=LATE[1]))
    rows = rows.with_columns(known_at=pl.when(late).then(pl.col("known_at") + timedelta(days=3)).otherwise("known_at"))
    old = rows.filter((pl.col("series_id") == CORRECTED[0]) & (pl.col("event_time") == START + timedelta(days=CORRECTED[1])))
    return SERIES.conform(pl.concat([rows, old.with_columns(pl.col("load") * 1.3, pl.col("known_at") + timedelta(days=20))]))


def by_hand(rows):
    """The same figures with dictionaries and loops; squared error is the primary loss."""
    vintages = {}
    for r in rows.sort("known_at").iter_rows(named=True):
        vintages.setdefault((r["series_id"], r["event_time"]), []).append((r["known_at"], r["load"]))
    out = {}
    for f in read_served("small").iter_rows(named=True):
        s = out.setdefault(
            f["step"], {"n_steps": 0, "n_open": 0, "n_late": 0, "n_corrected": 0, "losses": [], "absolute": [], "errors": [], "inside": []}
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
    assert {k: row[k] for k in ("n_steps", "n_open", "n_late", "n_corrected")} == {k: hand[k] for k in ("n_steps", "n_open", "n_late", "n_corrected")}
    assert row["n_known"] == len(hand["losses"])
    for name, values in {"loss": hand["losses"], "mae": hand["absolute"], "bias": hand["errors"], "coverage_frac": hand["inside"]}.items():
        assert math.isclose(row[name], sum(values) / len(values), rel_tol=1e-12), name


def report_on(root, rows):
    write_clean(root, rows)
    main(root)
    return read_json(root / REPORT / "report.json")


def test_what_has_not_come_true_stays_open(world):
    report = report_on(world, up_to(LAST))
    hand = by_hand(up_to(LAST))
    assert report["n_served"] == 250
    assert [row["n_open"] for row in report["by_step"]] == [2, 4, 6, 8, 10]
    for row in report["by_step"]:
        same(row, hand[row["step"]])


def test_late_and_corrected_values_count_as_they_are_now(world):
    report, hand = report_on(world, appended()), by_hand(appended())
    assert report["overall"]["n_steps"] == 1250
    assert report["overall"]["n_open"] == 0
    assert (report["overall"]["n_late"], report["overall"]["n_corrected"]) == (3, 5)  # day 437 lies 3 to 5 steps ahead of cutoffs up to 434
    for row in report["by_step"]:
        same(row, hand[row["step"]])
    (of_digest,) = report["by_digest"]
    assert of_digest["digest"] == report["champion"]["digest"] == read_champion("small").digest
    losses = [v for s in hand.values() for v in s["losses"]]
    gate = read_champion("small").decision["mean_loss"]["challenger"]
    assert report["champion"]["error_ratio"] == pytest.approx(sum(losses) / len(losses) / gate, rel=1e-12)
    assert report["verdict"] in {"measured", "drift"}


def test_there_is_a_page_to_look_at(world):
    report_on(world, appended())
    folder = world / REPORT
    assert "north:load" in (folder / "evidently.html").read_text()
    assert (folder / "steps.png").stat().st_size > 5_000
    assert "| 5 |" in (folder / "report.md").read_text()


def test_with_nothing_new_the_report_stands(world, capsys):
    report_on(world, appended())
    before = {path.name: (path.stat().st_mtime_ns if path.name != "report.json" else 0, path.read_bytes()) for path in (world / REPORT).iterdir()}
    capsys.readouterr()
    report_on(world, appended())
    assert "nothing new" in capsys.readouterr().out
    assert {
        path.name: (path.stat().st_mtime_ns if path.name != "report.json" else 0, path.read_bytes()) for path in (world / REPORT).iterdir()
    } == before
