"""What every report promises: its form travels with it, and a file of another form is refused."""

from typing import ClassVar

import pytest

from tasks.core.errors import FrameError
from tasks.core.reports.base import Report
from tasks.edges.artifacts import read_report, write_json, write_report


class Landing(Report):
    """A report as stages have them."""

    OLD_NAMES: ClassVar = {"kept": "n_kept"}

    n_kept: int


def test_a_report_is_read_as_it_was_written(tmp_path):
    write_report(tmp_path / "a.json", Landing(n_kept=3))
    assert (tmp_path / "a.json").read_text() == '{\n  "n_kept": 3,\n  "schema": 1\n}\n'
    assert read_report(tmp_path / "a.json", Landing) == Landing(n_kept=3)


def test_a_file_of_before_is_read_by_its_old_names(tmp_path):
    write_json(tmp_path / "a.json", {"kept": 3})
    assert read_report(tmp_path / "a.json", Landing) == Landing(n_kept=3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"n_kept": 3, "schema": 2}, "schema: 2.*reads up to 1.*Update"),
        ({"n_kept": 3, "other": 1}, "`other`.*Run the stage"),
        ({"schema": 1}, "`n_kept`.*Run the stage"),
        ({"n_kept": "many"}, "`n_kept`.*integer"),
        ([3], "no JSON object.*Run the stage"),
        ("3", "no JSON object.*Run the stage"),
        (None, "no JSON object.*Run the stage"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, content, says):
    write_json(tmp_path / "a.json", content)
    with pytest.raises(FrameError, match=says) as refused:
        read_report(tmp_path / "a.json", Landing)
    assert str(tmp_path / "a.json") in str(refused.value)
