"""`remove`, `logs`, a home that cannot be written, and parts of `up` that end again and again."""

import json
import os
import sys
import time

import pytest
import yaml
from homes import at_home
from servers import crown
from small_checkout import small_checkout
from small_release import build_small_release

from deployments.ops.doctor import list_findings
from deployments.ops.logs import follow_log, read_log
from deployments.ops.supervisor import SupervisedPart, _PartKeeper
from deployments.ops.supervisor_state import PartEnds, SupervisorState, get_state_path
from tasks.core.errors import ParamsError, SettingsError
from tasks.edges.artifacts import write_json
from tasks.edges.processes import build_process_identity
from tasks.ingest.wizard.write import remove_entry

FIRST = "index_volatility"


@pytest.fixture
def checkout(tmp_path):
    """Two datasets with champions, rows and served forecasts each."""
    found = small_checkout(tmp_path)
    params = found.root / "params.yaml"
    document = yaml.safe_load(params.read_text())
    document["datasets"]["second"] = dict(document["datasets"][FIRST])
    params.write_text(yaml.safe_dump(document, sort_keys=False))
    for name in (FIRST, "second"):
        release = tmp_path / name
        build_small_release(release, dataset=name)
        crown(found.home, release)
        for folder in ("served", "feed", "rows", "progress"):
            (found.home / folder).mkdir(exist_ok=True)
        (found.home / "rows" / f"{name}.parquet").write_bytes(b"rows")
        (found.home / "served" / f"{name}.db").write_bytes(b"served")
        (found.home / "feed" / name).mkdir()
    return found


def list_files(home):
    return {path.relative_to(home) for path in home.rglob("*") if path.is_file()}


def test_remove_takes_the_dataset_and_nothing_of_another(checkout):
    before, params = list_files(checkout.home), yaml.safe_load((checkout.root / "params.yaml").read_text())
    done = json.loads(checkout.tidemill("remove", "second", "--yes", "--json").stdout)
    gone = before - list_files(checkout.home)
    assert {path.parts[0] for path in gone} == {"registry", "rows", "served", "releases"}
    assert [path for path in gone if FIRST in str(path)] == []
    assert (checkout.home / "registry" / FIRST / "champion.json").exists()
    assert len(list((checkout.home / "releases").iterdir())) == 1
    assert not (checkout.home / "feed" / "second").exists()
    del params["datasets"]["second"]
    assert yaml.safe_load((checkout.root / "params.yaml").read_text()) == params
    assert len(done["removed"]) == 6
    assert "There is no dataset 'second'" in checkout.tidemill("remove", "second", "--yes", code=2).stderr


def test_remove_asks_and_never_takes_the_current_one(checkout):
    before = list_files(checkout.home)
    assert "is the current dataset" in checkout.tidemill("remove", FIRST, "--yes", code=2).stderr
    assert "`--yes`" in checkout.tidemill("remove", "second", code=2).stderr  # nothing answers
    for name in ("../checkout", "nowhere", "", "."):
        assert "There is no dataset" in checkout.tidemill("remove", name, "--yes", code=2).stderr
    assert list_files(checkout.home) == before


PARAMS = """# the file
dataset: b
datasets:
  a:
    about: {x: 1}  # first
    # inside a

  # before b
  b:
    about: &shared {x: 2}
  # before c
  c:
    about: *shared
# end
models: []
"""


@pytest.mark.parametrize("name", ["a", "c"])
def test_an_entry_goes_alone_with_its_own_comments(name, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    remove_entry(name, tmp_path)
    rest = path.read_text()
    own = {"a": ["  a:", "    about: {x: 1}  # first", "    # inside a"], "c": ["  c:", "    about: *shared"]}
    assert rest.splitlines() == [line for line in PARAMS.splitlines() if line not in own[name]]


def test_an_entry_that_others_refer_to_stays(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    with pytest.raises(ParamsError, match="Remove it by hand"):
        remove_entry("b", tmp_path)
    assert (tmp_path / "params.yaml").read_text() == PARAMS


def test_the_last_and_the_only_entry_can_go(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("dataset: a\ndatasets:\n  a: {about: 1}\n  b:\n    about: 2\n")
    remove_entry("b", tmp_path)
    assert path.read_text() == "dataset: a\ndatasets:\n  a: {about: 1}\n"
    path.write_text("dataset: a\ndatasets: {a: {about: 1}, b: {about: 2}}\n")
    with pytest.raises(ParamsError, match="Remove it by hand"):
        remove_entry("b", tmp_path)


def test_logs_are_of_one_part_or_of_all_and_go_on(tmp_path):
    with at_home(tmp_path):
        with pytest.raises(SettingsError, match="`tidemill run` and `tidemill up` write there"):
            read_log(None, 5)
        log = tmp_path / "logs" / "up.log"
        log.with_name("up.log.1").write_text("2026-01-01 00:00:00 service | older\n")
        log.write_text("2026-01-01 00:00:01 worker | w\n2026-01-01 00:00:02 service | new | er\n")
        log.with_name("prefect-server.log").write_text("started\n")
        assert [line.partition(" | ")[2] for line in read_log("service", 5).lines] == ["older", "new | er"]
        assert len(read_log(None, 2).lines) == 2
        assert read_log("prefect-server", 5).lines == ["started"]
        with pytest.raises(SettingsError, match="There are: prefect-server, service, worker"):
            read_log("mlflow", 5)
        added = iter(["2026-01-01 00:00:03 worker | x\n", "2026-01-01 00:00:04 service | y\n"])
        followed = follow_log(read_log("service", 5), lambda: _append(log, next(added)))
        assert next(followed).endswith("service | y")


def _append(path, text):
    with path.open("a") as handle:
        handle.write(text)


def test_a_home_that_cannot_be_written_is_named_by_every_command_that_needs_it(checkout):
    """Root may write anywhere, so it is a folder of the kernel's here."""
    away = {"TIDEMILL_HOME": "/proc/tidemill"}
    for command in ("run", "up"):
        done = checkout.tidemill(command, code=2, **away)
        assert done.stderr.startswith("SettingsError: TIDEMILL_HOME is /proc/tidemill"), done.stderr
    findings = json.loads(checkout.tidemill("doctor", "--json", code=1, **away).stdout)
    (home,) = [row for row in findings if row["what"] == "home"]
    assert not home["well"]
    assert "nothing can be written" in home["found"]
    for command in (("page",), ("logs",)):
        done = checkout.tidemill(*command, code=2, **away)
        assert "Traceback" not in done.stderr


def test_a_part_that_ends_again_and_again_is_named(tmp_path):
    with at_home(tmp_path):
        parts = [
            SupervisedPart("service", lambda: [sys.executable, "-c", "raise SystemExit(3)"], {}, "a", bool)
        ]
        keeper = _PartKeeper(parts)
        try:
            deadline = time.monotonic() + 60
            while "service" not in keeper.ends or keeper.ends["service"].n < 2:
                assert time.monotonic() < deadline
                keeper.run_round()
                time.sleep(0.05)
            found = {row.what: row for row in list_findings()}
        finally:
            keeper.close()
            for handler in list(keeper.log.handlers):
                keeper.log.removeHandler(handler)
                handler.close()
    part = found["part service"]
    assert not part.well
    assert "it ended with code 3, 2 times since `tidemill up`" in part.found
    assert "`tidemill logs service`" in part.advice
    assert "free, though `tidemill up` runs" in next(f.found for w, f in found.items() if "(service)" in w)


@pytest.mark.parametrize(("age_s", "n", "is_named"), [(5, 2, True), (5, 1, False), (9_999, 7, False)])
def test_a_part_that_runs_again_is_named_only_while_its_ends_are_recent(tmp_path, age_s, n, is_named):
    with at_home(tmp_path):
        me = build_process_identity("supervisor", os.getpid())
        ends = PartEnds(n=n, ended_at=time.time() - age_s, starts_at=0.0, fact="ended with code 1")
        part = me.model_copy(update={"name": "worker"})
        state = SupervisorState(
            supervisor=me, parts=(part,), addresses={"worker": "p"}, ends={"worker": ends}
        )
        write_json(get_state_path(), state.model_dump())
        assert ("part worker" in {row.what for row in list_findings() if not row.well}) is is_named


def test_a_feed_that_lands_another_dataset_is_named(tmp_path):
    with at_home(tmp_path):
        me = build_process_identity("supervisor", os.getpid())
        write_json(get_state_path(), SupervisorState(supervisor=me, feed_dataset="other").model_dump())
        (feed,) = [row for row in list_findings() if row.what == "feed"]
        assert "the feed lands 'other'" in feed.found
        assert not feed.well


def test_an_entry_that_waits_for_long_is_named(tmp_path):
    with at_home(tmp_path):
        entry = tmp_path / "mlflow" / "outbox" / "1-1-run"
        entry.mkdir(parents=True)
        assert next(row for row in list_findings() if row.what == "mlflow").well
        os.utime(entry, (time.time() - 7_200,) * 2)
        found = next(row for row in list_findings() if row.what == "mlflow")
        assert not found.well
        assert "the oldest since 120 min" in found.found
        assert "mlflow_delivery" in found.advice
