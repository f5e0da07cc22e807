"""Any change of the audit is found, and the first row that is not as it was written is named."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_served import a_forecast
from typer.testing import CliRunner

from deployments.cli.app import app
from tasks.edges import served_store
from tasks.edges.audit import AuditEntry, AuditRow, get_audit_head_path
from tasks.edges.audit_check import list_audit, verify_audit
from tasks.edges.served import StoredAnswer, build_stored_rows, write_answers
from tasks.edges.served_store import ServedStoreError, get_served_path
from tasks.edges.settings import read_settings

NAME, N_ANSWERS = "audited", 6
MADE_AT = datetime(2026, 11, 30, 12, tzinfo=UTC)


def an_answer(k):
    request = json.dumps({"series_id": ["sp500"], "as_of": None, "history": None})
    entry = AuditEntry(
        f"shop-{k}", "acme", "POST /api/v1/predict", request, "d" * 64, "1.0.0", "v" * 64, None, "r" * 64,
        400 + k, f"request {k}".encode(), f"answer {k}".encode(),
    )  # fmt: skip
    rows = build_stored_rows(a_forecast(f"id-{k}", y_hat=-0.0 if k == 0 else 0.01 * k, q05=1.0))
    return StoredAnswer(NAME, f"id-{k}", MADE_AT + timedelta(seconds=k), rows, None, entry)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with some answers, in two transactions."""
    folder = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEMILL_HOME", str(folder))
        read_settings.cache_clear()
        write_answers([an_answer(k) for k in range(4)])
        write_answers([an_answer(k) for k in range(4, N_ANSWERS)])
        # So that a test may change the file
        served_store._of_thread.connection.close()
        vars(served_store._of_thread).clear()
        yield folder
    read_settings.cache_clear()


class Changed:
    """The store after *statement*, until the block ends."""

    def __init__(self, statement, *values):
        self.statement, self.values = statement, values

    def __enter__(self):
        self.content = get_served_path(NAME).read_bytes()
        with closing(sqlite3.connect(get_served_path(NAME))) as connection, connection:
            for statement in self.statement.split(";"):
                connection.execute(statement, self.values if "?" in statement else ())
        return verify_audit(NAME)

    def __exit__(self, *_):
        for suffix in ("-wal", "-shm"):
            path = get_served_path(NAME).with_name(f"{NAME}.db{suffix}")
            path.unlink(missing_ok=True)
        get_served_path(NAME).write_bytes(self.content)


def test_an_audit_that_was_not_changed_is_well(home):
    result = verify_audit(NAME)
    assert result[:2] == (N_ANSWERS, 0)
    assert result.fault is None
    assert result.head.seq == N_ANSWERS
    assert [row.prediction_id for row in list_audit(NAME, 2)] == ["id-5", "id-4"]
    assert CliRunner().invoke(app, ["audit", "verify", "--dataset", NAME]).exit_code == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, N_ANSWERS), st.sampled_from(AuditRow._fields[1:]), st.data())
def test_a_changed_byte_of_any_column_of_any_row_is_found(home, seq, column, data):
    with closing(sqlite3.connect(get_served_path(NAME))) as connection:
        query = f"SELECT CAST({column} AS BLOB), typeof({column}) FROM audit WHERE seq = ?"
        content, kind = connection.execute(query, [seq]).fetchone()
    content = bytearray(content or b"0")
    index = data.draw(st.integers(0, len(content) - 1))
    content[index] ^= data.draw(st.integers(1, 127)) if kind != "integer" else 1
    value = bytes(content) if kind != "integer" else int(content)
    cast = "CAST(? AS TEXT)" if kind != "integer" else "?"
    with Changed(f"UPDATE audit SET {column} = {cast} WHERE seq = {seq}", value) as result:
        assert result.fault.kind == "changed"
        assert result.fault.seq == seq


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_changed_byte_of_the_file_where_the_rows_are_is_found(home, where, flip):
    """In the cells of the rows, without SQLite: lengths and types, too."""
    path = get_served_path(NAME)
    content = path.read_bytes()
    # The newest row is the first in the page
    start = content.index(f"shop-{N_ANSWERS - 1}".encode()) - 20
    end = content.index(list_audit(NAME, N_ANSWERS)[-1].hash.encode()) + 64
    changed = bytearray(content)
    changed[start + int(where * (end - start))] ^= flip
    try:
        path.write_bytes(changed)
        try:
            assert verify_audit(NAME).fault is not None
        except ServedStoreError:
            return
    finally:
        path.write_bytes(content)


_RENUMBER = "UPDATE audit SET seq = seq + 99 WHERE seq > 2;UPDATE audit SET seq = seq - 98 WHERE seq > 99"
_SWAP = ";".join(f"UPDATE audit SET seq = {new} WHERE seq = {old}" for old, new in ((2, 0), (4, 2), (0, 4)))
_COPY = ", ".join("3" if name == "seq" else name for name in AuditRow._fields)


@pytest.mark.parametrize(
    ("statement", "kind", "seq"),
    [
        ("DELETE FROM audit WHERE seq = 1", "missing", 1),
        ("DELETE FROM audit WHERE seq = 3", "missing", 3),
        ("DELETE FROM audit WHERE seq = 3;UPDATE audit SET seq = seq - 1 WHERE seq > 3", "changed", 3),
        (f"DELETE FROM audit WHERE seq = {N_ANSWERS}", "truncated", N_ANSWERS),
        ("DELETE FROM audit", "truncated", 1),
        (f"{_RENUMBER};INSERT INTO audit SELECT {_COPY} FROM audit WHERE seq = 2", "changed", 3),
        (_SWAP, "changed", 2),
        ("UPDATE audit SET latency_us = CAST(latency_us AS BLOB) WHERE seq = 2", "changed", 2),
        ("UPDATE audit SET code_commit = '' WHERE seq = 2", "changed", 2),
        ("UPDATE served SET y_hat = 7 WHERE prediction_id = 'id-2' AND step = 2", "steps", 3),
        ("DELETE FROM served WHERE prediction_id = 'id-2' AND step = 2", "steps", 3),
        ("DELETE FROM served WHERE prediction_id = 'id-4'", "steps", 5),
    ],
)
def test_the_first_bad_row_is_named(home, statement, kind, seq):
    with Changed(statement) as result:
        assert (result.fault.kind, result.fault.seq) == (kind, seq)
        done = CliRunner().invoke(app, ["audit", "verify", "--dataset", NAME, "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["fault"]["seq"] == seq


def test_all_rows_written_again_do_not_fit_to_the_head(home):
    head = get_audit_head_path(NAME)
    text = head.read_text()
    try:
        head.write_text(f"{text[:21]}{'e' * 64}\n")
        assert verify_audit(NAME).fault[:2] == (N_ANSWERS, "rewritten")
        head.unlink()
        assert verify_audit(NAME).fault.kind == "head"
        head.write_text("nothing")
        assert verify_audit(NAME).fault.kind == "head"
        head.write_text(f"{N_ANSWERS - 1:020d} {list_audit(NAME, 2)[1].hash}\n")
        assert verify_audit(NAME)[1::2] == (1, None), "a head that is behind"
    finally:
        head.write_text(text)
