"""No caller has a part in the figures that decide: any two loads of traffic give the same bytes."""

import json
import shutil
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from homes import at_home, small_root, write_clean
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st
from served_frames import write_served
from servers import serving
from small_release import START, cutoff_at, small_rows

from tasks.core.frames import SERVED
from tasks.core.reports.monitor import MonitorReport
from tasks.edges.artifacts import read_json
from tasks.edges.registry import publish_rows_file, read_champion
from tasks.edges.served_store import get_archive_path, get_served_path
from tasks.monitor.__main__ import main
from tasks.promote.__main__ import main as promote
from tasks.retrain.__main__ import main as retrain

PROMOTED, NEWEST = 434, 470
SPIKE = (
    pl.when(pl.col("event_time") == START + timedelta(days=460)).then(pl.col("load") * 5).otherwise("load")
)
ROWS = small_rows(NEWEST + 1).with_columns(load=SPIKE)  # a bad day to ask for


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A root whose champion was promoted on day 434, with rows up to day 470."""
    folder = tmp_path_factory.mktemp("callers")
    with at_home(folder / "home"):
        gate = {"gate_steps": PROMOTED - 299}
        rows = ROWS.filter(pl.col("known_at") <= cutoff_at(PROMOTED))
        root = small_root(
            folder / "root", rows, challenger={"weights": {"ridge": 1.0}, **gate}, baseline=gate
        )
        promote(root, deliver=nullcontext)
        write_clean(root, ROWS)
        publish_rows_file("small", root / "data/clean/rows.parquet")
        yield root


def decided(root, *, fresh=True):
    """All that decides of a report, and the decision after it, as bytes."""
    if fresh:
        shutil.rmtree((root / MonitorReport.PATH).parent, ignore_errors=True)
    main(root)
    retrain(root)
    report = {k: v for k, v in read_json(root / MonitorReport.PATH).items() if k != "served"}
    return json.dumps(report, sort_keys=True), (root / "data/decisions/retrain/decision.json").read_bytes()


@pytest.fixture(scope="module")
def without_traffic(world):
    return decided(world)


def test_without_any_traffic_the_champion_is_judged(without_traffic):
    report = json.loads(without_traffic[0])
    assert report["verdict"] in {"measured", "degraded", "drift"}
    assert report["n_cutoffs"] == NEWEST - PROMOTED
    assert report["champion"]["n_known"] == 2 * sum(min(5, NEWEST - day) for day in range(PROMOTED, NEWEST))
    assert "times the gate's" in report["reason"]


answers = st.builds(
    dict,
    series=st.sampled_from([("north",), ("south",), ("north", "south")]),
    day=st.integers(300, NEWEST),
    as_of=st.booleans(),
    own_history=st.booleans(),
    y_hat=st.floats(1e-3, 1e6),
    digest=st.sampled_from(["champion", "another"]),
    n_times=st.integers(1, 5),
)


@given(load=st.lists(answers, max_size=12))
@tries(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_traffic_leaves_every_figure_that_decides_as_it_is(world, without_traffic, load):
    _forget_answers()
    for k, asked in enumerate(load):
        for again in range(asked["n_times"]):
            _record(f"{k}-{again}", asked)
    assert decided(world) == without_traffic
    _record(
        "one-more",
        (
            load[0]
            if load
            else {
                "series": ("north",),
                "day": NEWEST,
                "as_of": False,
                "own_history": False,
                "y_hat": 1.0,
                "digest": "champion",
            }
        ),
    )
    assert decided(world, fresh=False) == without_traffic, "a report that only counts new answers"


def _forget_answers():
    """In the store, and those of its months that were moved."""
    for file in get_served_path("small").parent.glob("small.db*"):
        file.unlink()
    shutil.rmtree(get_archive_path("small", "any").parent, ignore_errors=True)


def _record(prediction_id, asked):
    at = cutoff_at(asked["day"])
    rows = [
        {
            "series_id": name,
            "cutoff": at,
            "step": step,
            "event_time": at + timedelta(days=step - 1),
            "model": "m",
            "y_hat": asked["y_hat"],
            "prediction_id": prediction_id,
            "made_at": datetime(2026, 1, 1, tzinfo=UTC),
            "digest": read_champion("small").digest if asked["digest"] == "champion" else "another",
            "q_0.1": 0.0,
            "q_0.9": 1.0,
        }
        for name in asked["series"]
        for step in range(1, 6)
    ]
    write_served(
        "small",
        SERVED.conform(pl.DataFrame(rows)),
        own_history=asked["own_history"],
        as_of=at if asked["as_of"] else None,
    )


def test_bad_days_asked_for_over_http_make_no_retraining_due(world, without_traffic, tmp_path):
    """The service marks each answer: as of a time (the newest too), from own rows, or from the
    newest rows, which alone are served news."""
    history = [
        {"event_time": (START + timedelta(days=day)).isoformat(), "load": 1.0} for day in range(440, 470)
    ]
    _forget_answers()
    with serving(
        get_served_path("small").parent.parent, root=world.parent, TIDEMILL_RELEASE=str(_folder())
    ) as server:
        asked = [{"as_of": cutoff_at(day).isoformat()} for day in (457, 458, 459, NEWEST)] + [
            {"history": history},
            {},
            {},
        ]
        for more in asked:
            assert server.predict(series_id="north", **more).status_code == 200
    assert decided(world) == without_traffic
    served = read_json(world / MonitorReport.PATH)["served"]
    assert served["answers"] == {
        "n_answers": 7,
        "n_news": 2,
        "n_as_of": 4,
        "n_own_history": 1,
        "n_unmarked": 0,
    }
    assert served["overall"]["n_steps"] == 5, "the same question twice is one forecast"


def _folder():
    from tasks.edges.registry import get_champion_folder

    return get_champion_folder(read_champion("small")).absolute()
