"""Every rule finds exactly the rows that break it; nothing is lost between clean and quarantine;
too many stop the stage."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import yaml
from homes import at_home
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from deployments.console.pages.validation import render_validation
from tasks.core.about import About, Target
from tasks.core.calendar import Calendar, list_exchange_sessions
from tasks.core.errors import ContractError
from tasks.core.frames import QUARANTINE, SERIES
from tasks.core.gaps import find_gaps
from tasks.edges.artifacts import read_frame, write_frame
from tasks.edges.files import compute_file_hash
from tasks.edges.params import read_dataset, read_document
from tasks.edges.settings import ROOT
from tasks.validate.__main__ import main
from tasks.validate.contract import find_contract_failures, run_suite
from tasks.validate.failure import RuleFailure
from tasks.validate.params import ColumnRule, RowRule, ValidateParams
from tasks.validate.profile import build_profile
from tasks.validate.stage import get_failed_folder, validate_rows

START = datetime(2024, 1, 1, tzinfo=UTC)
INF, NAN = float("inf"), float("nan")
PARAMS = ValidateParams(
    max_quarantine_frac=0.5,
    columns={
        "a": ColumnRule(min=0, strict_min=True, max=10),
        "b": ColumnRule(min=-2, nullable=True, integer=True),
        "c": ColumnRule(values=(1.0, 2.0)),
    },
    rows=(RowRule(greater_or_equal=("a", "b")),),
)
CELL = st.none() | st.sampled_from([-3.0, -2.0, 0.0, 0.5, 1.0, 2.0, 10.0, 11.0, INF, -INF, NAN])
ROWS = st.lists(st.tuples(CELL, CELL, CELL, st.integers(0, 59)), min_size=1, max_size=60)


def about_of(every="1h", calendar="continuous"):
    return About(
        description="t", every=every, calendar=calendar, target=Target(column="a", unit="u"), horizon_steps=2
    )


def frame_of(a, b=None, c=None, times=None, series="s"):
    n = len(a)
    times = times or [START + timedelta(hours=i) for i in range(n)]
    columns = {"a": a, "b": b or [0.0] * n, "c": c or [1.0] * n}
    frame = pl.DataFrame(
        {"series_id": [series] * n, "event_time": times, **columns},
        schema_overrides=dict.fromkeys("abc", pl.Float64),
    )
    return SERIES.conform(frame.with_columns(known_at=pl.col("event_time") + timedelta(hours=1)))


def oracle(row, phase):
    """The rules that a row breaks, one by one in plain Python."""
    *cells, when = row
    finite = [
        f"{name} is finite"
        for name, v in zip("abc", cells, strict=True)
        if v is not None and not np.isfinite(v)
    ]
    a, b, c = (None if v is None or np.isnan(v) else v for v in cells)
    rules = {
        "on_grid": (when.minute, when.second) != phase,
        "a is known": a is None,
        "a > 0": a is not None and not a > 0,
        "a <= 10": a is not None and not a <= 10,
        "b >= -2": b is not None and not b >= -2,
        "b is whole": b is not None and np.isfinite(b) and b != int(b),
        "c is known": c is None,
        "c in set": c is not None and c not in (1.0, 2.0),
        "a >= b": a is not None and b is not None and not a >= b,
    }
    return finite + [rule for rule, broken in rules.items() if broken]


@settings(deadline=None, max_examples=12)  # each runs a suite, .2 s
@given(drawn=ROWS)
def test_each_row_is_clean_or_quarantined_as_an_independent_oracle_says(drawn):
    times = [
        START + timedelta(hours=i, minutes=minute if minute > 50 else 0)
        for i, (*_, minute) in enumerate(drawn)
    ]
    rows = frame_of(*map(list, list(zip(*drawn, strict=True))[:3]), times=times)
    minutes = [t.minute for t in times]
    phase = (min(minutes, key=lambda m: (-minutes.count(m), m)), 0)
    got = validate_rows(rows, about_of(), PARAMS, report=lambda _: None)
    broken = [oracle(row, phase) for row in rows.select("a", "b", "c", "event_time").iter_rows()]
    assert got.clean.height + got.quarantined.height == rows.height
    assert_frame_equal(pl.concat([got.clean, got.quarantined.drop("rule", "reason")]).sort(SERIES.key), rows)
    assert got.clean["event_time"].to_list() == [
        t for t, rules in zip(times, broken, strict=True) if not rules
    ]
    assert got.quarantined["rule"].to_list() == [rules[0] for rules in broken if rules]
    assert [reason.count(";") + 1 for reason in got.quarantined["reason"]] == [
        len(rules) for rules in broken if rules
    ]
    counts = {rule: sum(rule in rules for rules in broken) for rule in got.summary.by_rule}
    assert got.summary.by_rule == counts
    of_suite = {r.rule: r.result.unexpected_count for r in got.result.results}
    assert of_suite == {rule: counts[rule] for rule in of_suite}
    assert got.result.success == (not any(of_suite.values()))


PLANTED = {
    "a is known": ({"a": None}, "a is missing"),
    "a > 0": ({"a": 0.0, "b": -1.0}, "a is 0.0, not > 0"),
    "a <= 10": ({"a": 12.5}, "a is 12.5, not <= 10"),
    "b >= -2": ({"b": -4.0}, "b is -4.0, not >= -2"),
    "b is whole": ({"b": 0.5}, "b is 0.5, not a whole number"),
    "c in set": ({"c": 3.0}, "c is 3.0, not one of [1.0, 2.0]"),
    "a >= b": ({"a": 1.0, "b": 2.0}, "a 1.0 is below b 2.0"),
    "b is finite": ({"a": 5.0, "b": NAN}, "b is NaN, not a finite number"),
}


@pytest.mark.parametrize("rule", PLANTED)
def test_planted_fault_is_quarantined_with_its_rule_and_reason(rule, tmp_path):
    cells, reason = PLANTED[rule]
    rows = frame_of([5.0] * 9)
    hit = rows["event_time"] == rows["event_time"][4]
    rows = rows.with_columns(
        pl.when(hit).then(pl.lit(v, pl.Float64)).otherwise(pl.col(c)).alias(c) for c, v in cells.items()
    )
    got = validate_rows(rows, about_of(), PARAMS, report=lambda _: None)
    assert got.quarantined.select("event_time", "rule", "reason").rows() == [
        (START + timedelta(hours=4), rule, reason)
    ]
    assert got.clean.height == 8


def test_null_passes_where_the_contract_allows_it():
    got = validate_rows(
        frame_of([5.0] * 4, b=[None, 1.0, None, 1.0]), about_of(), PARAMS, report=lambda _: None
    )
    assert (got.clean.height, got.clean["b"].null_count()) == (4, 2)


def test_row_between_the_steps_is_quarantined():
    times = [START + timedelta(hours=i, minutes=17 if i == 2 else 30) for i in range(6)]
    got = validate_rows(frame_of([5.0] * 6, times=times), about_of(), PARAMS, report=lambda _: None)
    assert got.quarantined.select("rule", "reason").rows() == [
        ("on_grid", "2024-01-01 02:17:00 is no step every 1h as most rows are")
    ]


@pytest.mark.parametrize(
    ("calendar", "day"),
    [("exchange:XNYS", "2024-07-04"), ("exchange:XNYS", "2024-07-06"), ("weekdays", "2024-07-06")],
)
def test_row_on_a_day_off_is_quarantined(calendar, day):
    days = ["2024-07-02", "2024-07-03", "2024-07-05", day]
    rows = frame_of([5.0] * 4, times=[datetime.fromisoformat(d).replace(tzinfo=UTC) for d in days])
    got = validate_rows(rows, about_of("1d", calendar), PARAMS, report=lambda _: None)
    assert got.quarantined.select("rule", "reason").rows() == [
        ("on_calendar", f"{day} 00:00:00 is no step of {calendar}")
    ]


def test_too_few_rows_stop_the_stage():
    with pytest.raises(ContractError, match=r"data/raw has 2 rows, `validate.min_rows` is 3.*ledger.json"):
        validate_rows(frame_of([1.0] * 2), about_of(), PARAMS.model_copy(update={"min_rows": 3}))
    with pytest.raises(ContractError, match="has 0 rows"):  # a suite passes on nothing
        validate_rows(frame_of([1.0]).clear(), about_of(), PARAMS)


def test_missing_column_stops_the_stage():
    with pytest.raises(ContractError, match=r"names column\(s\) \['c'\], but data/raw has \['a', 'b'\]"):
        validate_rows(frame_of([1.0]).drop("c"), about_of(), PARAMS)


def test_expectation_that_raises_is_no_bad_data():
    """Great Expectations reports an exception as a failed expectation."""
    rows, params = (
        frame_of([1.0]).with_columns(zz=pl.lit("text")),
        PARAMS.model_copy(update={"columns": {"zz": ColumnRule(min=0)}, "rows": ()}),
    )
    nothing = RuleFailure("zz >= 0", pl.Series([], dtype=pl.UInt32), pl.lit(""))
    with pytest.raises(ContractError, match=r"The rule 'zz >= 0' could not be computed"):
        run_suite(rows, params, [nothing])


def test_rows_that_only_one_engine_finds_stop_the_stage():
    rows = frame_of([5.0, 11.0])
    failures = [
        f._replace(rows=f.rows.clear()) if f.rule == "a <= 10" else f
        for f in find_contract_failures(rows, PARAMS)
    ]
    with pytest.raises(ContractError, match=r"finds 1 rows against 'a <= 10', polars 0"):
        run_suite(rows, PARAMS, failures)


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical])
def test_both_engines_agree_on_texts(dtype):
    rows = frame_of([5.0] * 4).with_columns(zone=pl.Series(["de", None, "", "fr"], dtype=dtype))
    params = PARAMS.model_copy(update={"columns": {"zone": ColumnRule(values=("de", "fr"))}, "rows": ()})
    failures = find_contract_failures(rows, params)
    assert {f.rule: f.rows.to_list() for f in failures} == {"zone is known": [1], "zone in set": [2]}
    assert not run_suite(rows, params, failures).result.success


def test_contract_without_rules_lets_all_finite_rows_through():
    got = validate_rows(
        frame_of([1.0, INF, 1.0]),
        about_of(),
        ValidateParams(max_quarantine_frac=1, columns={}),
        report=lambda _: None,
    )
    assert got.quarantined["rule"].to_list() == ["a is finite"]


@pytest.mark.parametrize("rule", [{"strict_min": True}, {"min": 2, "max": 1}, {"least": 1}])
def test_rule_that_cannot_be_is_refused(rule):
    with pytest.raises(ValidationError):
        ColumnRule.model_validate(rule)


@settings(deadline=None, max_examples=60)
@given(
    kept=st.lists(st.sets(st.integers(0, 20), min_size=1), min_size=1, max_size=3),
    calendar=st.sampled_from(["continuous", "weekdays", "exchange:XNYS"]),
)
def test_gaps_and_rows_together_are_every_step_between_first_and_last(kept, calendar):
    sessions = (
        list_exchange_sessions("XNYS", START, START + timedelta(days=60))
        if calendar.startswith("exchange")
        else None
    )
    steps = Calendar(calendar, "1d", 0.0, sessions)
    grid = steps.grid(START + timedelta(days=1), START + timedelta(days=50))
    rows = pl.concat(
        [
            frame_of([1.0] * len(k), times=[grid[i] for i in sorted(k)], series=f"s{j}")
            for j, k in enumerate(kept)
        ]
    )
    gaps = find_gaps(rows, steps)
    for j, k in enumerate(kept):
        missing = [
            t
            for g in gaps.filter(series_id=f"s{j}").iter_rows(named=True)
            for t in steps.grid(g["start"], g["end"])
        ]
        assert missing == [grid[i] for i in range(min(k), max(k)) if i not in k]
        assert gaps.filter(series_id=f"s{j}")["n_steps"].sum() == len(missing)


def test_gap_of_a_month_counts_months():
    days = [datetime(2024, m, 1, tzinfo=UTC) for m in (1, 2, 5)]
    gaps = find_gaps(frame_of([1.0] * 3, times=days), Calendar("continuous", "1mo"))
    assert gaps.rows() == [("s", datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC), 2)]


def test_profile_has_the_figures_of_numpy():
    values = [3.0, None, 4.5, -1.0]
    figures = build_profile(frame_of(values)).root["s"]["a"]
    known = np.array([v for v in values if v is not None])
    assert (figures.n, figures.n_null) == (4, 1)
    assert [getattr(figures, k) for k in ("min", "max", "mean", "sd")] == pytest.approx(
        [known.min(), known.max(), known.mean(), known.std(ddof=1)]
    )
    assert figures.first == START


@pytest.fixture
def checkout(tmp_path):
    """A checkout with params.yaml and data/raw of 200 rows."""
    document = read_document(ROOT).content
    entry = document["datasets"][document["dataset"]]
    entry["about"] |= {"every": "1h", "calendar": "continuous"}
    entry["validate"] = json.loads(
        PARAMS.model_copy(update={"max_quarantine_frac": 0.01}).model_dump_json(exclude_none=True)
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    write_raw(tmp_path, n_bad=2)
    with at_home(tmp_path / "home"):
        yield tmp_path


def write_raw(root, n_bad):
    write_frame(
        root / "data/raw/rows.parquet",
        frame_of([-1.0] * n_bad + [5.0] * (200 - n_bad), b=[-1.0] * 200),
        SERIES,
    )


def hashes(root):
    return {
        str(path.relative_to(root)): compute_file_hash(path)
        for path in sorted((root / "data").rglob("*"))
        if path.is_file() and "raw" not in path.parts
    }


def test_stage_on_disk_keeps_schemas_and_repeats_to_the_byte(checkout):
    main(checkout)
    before = hashes(checkout)
    assert read_frame(checkout / "data/clean/rows.parquet", SERIES).height == 198
    assert (
        read_frame(checkout / "data/quarantine/rows.parquet", QUARANTINE)["reason"].to_list()
        == ["a is -1.0, not > 0"] * 2
    )
    summary = json.loads((checkout / "data/reports/validate/summary.json").read_text())
    assert (summary["received"], summary["clean"], summary["quarantined"], summary["quarantined_frac"]) == (
        200,
        198,
        2,
        0.01,
    )
    assert len(json.loads((checkout / "data/reports/validate/suite.json").read_text())["expectations"]) == 8
    main(checkout)
    assert before == hashes(checkout)


def test_above_the_limit_nothing_of_the_outputs_changes_and_the_rows_can_be_looked_at(checkout, capsys):
    main(checkout)
    before = hashes(checkout)
    write_raw(checkout, n_bad=3)
    with pytest.raises(ContractError) as stopped:
        main(checkout)
    assert before == hashes(checkout)
    message = str(stopped.value)
    for part in (
        "3 of 200 rows (1.50%)",
        "`validate.max_quarantine_frac` allows 1.00%",
        "a > 0: 3",
        "s 2024-01-01 00:00:00: a is -1.0, not > 0",
    ):
        assert part in message
    failed = get_failed_folder(read_dataset(checkout))
    assert failed.is_relative_to(checkout / "home")
    assert str(failed) in message
    assert read_frame(failed / "rows.parquet", QUARANTINE).height == 3
    assert "3 in quarantine" in render_validation(checkout)
    write_raw(checkout, n_bad=0)
    main(checkout)
    assert not failed.exists()


def test_rows_that_all_fail_stop_the_stage_whatever_the_limit(checkout):
    document = read_document(checkout).content
    document["datasets"][document["dataset"]]["validate"]["max_quarantine_frac"] = 1.0
    (checkout / "params.yaml").write_text(yaml.safe_dump(document))
    write_raw(checkout, n_bad=200)
    with pytest.raises(ContractError, match="200 of 200 rows"):
        main(checkout)


def test_rows_before_the_first_known_session_are_quarantined_with_that_bound():
    """exchange_calendars knows Tokyo from 1997 on."""
    days = [datetime(1996, 12, 26, tzinfo=UTC), *(datetime(1997, 1, d, tzinfo=UTC) for d in (6, 7, 8))]
    rows = frame_of([5.0] * 4, times=days)
    got = validate_rows(rows, about_of("1d", "exchange:XTKS"), PARAMS, report=lambda _: None)
    assert got.clean.height == 3
    assert got.quarantined["reason"][0].startswith(
        "1996-12-26 00:00:00 is no step of exchange:XTKS, whose sessions are known from 1997-01-06 to 1999"
    )
