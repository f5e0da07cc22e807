"""What `tidemill run` prints: stage n of 11, a line per model, the time, what is left."""

import io
import json

import pytest
from homes import at_home
from rich.console import Console

from deployments.ops.progress import TerminalProgress, format_duration
from flows._stages import StageProgress
from tasks.edges.params import STAGES
from tasks.edges.run_stage import TargetResult


@pytest.fixture
def home(tmp_path):
    with at_home(tmp_path):
        yield tmp_path


def play(dataset, seconds, models=(), unchanged=()):
    """The lines of a run whose stages take *seconds* each by the clock."""
    now, output = [0.0], io.StringIO()
    progress = TerminalProgress(dataset, Console(file=output, width=200), clock=lambda: now[0])
    for stage in STAGES:
        progress.show(StageProgress(stage))
        for model in models if stage == "train" else ():
            progress.show(StageProgress(stage, model=model))
        now[0] += seconds[stage]
        ran = stage not in unchanged
        progress.show(StageProgress(stage, {"stage": stage, "ran": ran, "seconds": seconds[stage]}))
    return output.getvalue().splitlines()


def test_each_stage_says_its_number_and_the_time_and_each_model_has_a_line(home):
    seconds = dict.fromkeys(STAGES, 10.0)
    models = [TargetResult("ridge", ran=True, seconds=3.25), TargetResult("har", ran=False, seconds=1.0)]
    lines = play("small", seconds, models)
    numbers = [line.split("]")[0].strip() for line in lines if "of 11" in line]
    assert numbers == [f"[{n:>2} of 11" for n in range(1, 12)]
    assert [line.split() for line in lines if "ridge" in line or "har" in line] == [
        ["ridge", "3.2", "s"],
        ["har", "unchanged"],
    ]
    assert "1:50 min so far" in lines[-1]
    assert "left" not in "".join(lines)  # no run before it


def test_what_is_left_follows_the_last_run_of_the_same_dataset(home):
    seconds = {stage: float(k) for k, stage in enumerate(STAGES)}
    play("small", seconds)
    lines = play("small", seconds)
    for k, line in enumerate(lines[:-1]):
        left = sum(range(k + 1, len(STAGES)))
        assert line.endswith(f"so far, up to {left} s left")
    assert "left" not in lines[-1]
    assert "left" not in "".join(play("other", seconds))


def test_an_unchanged_stage_keeps_how_long_it_took_when_it_ran(home):
    play("small", dict.fromkeys(STAGES, 10.0))
    play("small", dict.fromkeys(STAGES, 1.0), unchanged={"train"})
    stored = json.loads((home / "progress" / "small.json").read_text())
    assert (stored["train"], stored["ingest"]) == (10.0, 1.0)


@pytest.mark.parametrize("content", ["", "[]", '{"ingest": "x"}', "{"])
def test_a_file_that_cannot_be_read_gives_no_estimate(home, content):
    (home / "progress").mkdir()
    (home / "progress" / "small.json").write_text(content)
    assert "left" not in "".join(play("small", dict.fromkeys(STAGES, 1.0)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (125, "2:05 min"), (3725, "1:02:05 h")],
)
def test_a_duration_is_in_the_units_people_use(seconds, text):
    assert format_duration(seconds) == text
