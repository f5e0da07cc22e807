"""Whether the packaged service computes the numbers of training, on recent cutoffs.

A child runs the Bento's own code on the Bento's own release, as the service does, and answers
requests by series and with own histories. Its features are compared with the table that models
were trained on, its forecasts with those of the same rows.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tasks.core.errors import ReleaseError
from tasks.core.frames import select_as_of
from tasks.core.reports.package import OnlineComparison
from tasks.edges.settings import ROOT, build_child_environment
from tasks.features import list_column_names
from tasks.release import Release, predict_cutoffs

LIMIT = 1e-6
MAX_CUTOFFS, MAX_FORECASTS = 10, 200  # the newest; fewer cutoffs where there are many series
MAX_SERIES, MAX_HISTORIES = 20, 4  # evenly spaced in the order of their names
HISTORY_CUTOFFS = 2
MAX_HISTORY_ROWS = 10_000  # that the service reads
TIMEOUT_S = 300.0  # 5 s on a free machine; one that hangs is ended


class OnlineRequest(NamedTuple):
    """One request.

    way: `series` or `history`. rows: SERIES that it is answered from. content: its body.
    """

    way: str
    cutoff: datetime
    series: list[str]
    rows: pl.DataFrame
    content: object


class Number(NamedTuple):
    """One number to compare. name: of a feature, or of a column."""

    way: str
    series_id: str
    cutoff: str
    name: str
    offline: float | None
    online: float | None


def compare_online(
    release: Release, bento: Path, rows: pl.DataFrame, table: pl.LazyFrame
) -> OnlineComparison:
    """Compare the service in *bento* with training; *release* is what it has inside.

    rows: all clean ones. table: FEATURES of training.
    Raises ReleaseError with the first number that differs, and where.
    """
    assert release.manifest is not None, "a sealed release"
    recent = _select_recent(release, table)
    cutoffs = recent["cutoff"].unique().sort().to_list()
    names = _spread(sorted(set(recent["series_id"]) & set(rows["series_id"])), MAX_SERIES)
    requests = [
        OnlineRequest("series", cutoff, names, rows, {"series_id": names, "as_of": cutoff.isoformat()})
        for cutoff in cutoffs
    ]
    histories = _list_histories(release, rows, names, cutoffs[-HISTORY_CUTOFFS:])
    requests += histories
    answers = _run_service(bento, [request.content for request in requests])
    expected = _Expected(release, recent, predict_cutoffs(release, rows, cutoffs))
    numbers = [
        number
        for request, answer in zip(requests, answers, strict=True)
        for number in expected.list_numbers(request, answer)
    ]
    n_features = sum(number.name in release.schema.names for number in numbers)
    return OnlineComparison(
        digest=release.manifest.digest,
        first_cutoff=cutoffs[0],
        last_cutoff=cutoffs[-1],
        n_series=len(names),
        n_histories=len(histories),
        n_features=n_features,
        n_forecasts=len(numbers) - n_features,
        max_difference=check_numbers(numbers),
        limit=LIMIT,
    )


def check_numbers(numbers: list[Number]) -> float:
    """The largest difference, relative to the number or the mean size of its column.

    Raises ReleaseError for the first above LIMIT, and for a number on one side alone.
    """
    sizes = pl.DataFrame({"name": [n.name for n in numbers], "size": [n.offline for n in numbers]})
    mean = dict(sizes.group_by("name").agg(pl.col("size").cast(pl.Float64).abs().mean()).iter_rows())
    largest = 0.0
    for number in numbers:
        ours, theirs = number.offline, number.online
        if ours is None or theirs is None:
            difference = 0.0 if ours is theirs else float("inf")
        else:
            scale = max(abs(ours), abs(theirs), mean[number.name] or 0.0)
            difference = abs(ours - theirs) / scale if ours != theirs else 0.0
        if not difference <= LIMIT:
            raise ReleaseError(
                f"The packaged service does not compute what training does: by {number.way},"
                f" {number.name} of series {number.series_id!r} at {number.cutoff} is {theirs} there and"
                f" {ours} in training; {LIMIT:g} is allowed. Compare `tasks/features` with the code in"
                " models/release/bento/src; a feature that keeps something between calls, or reads"
                " beyond its `lookback_steps`, does this (`tidemill check`)."
            )
        largest = max(largest, difference)
    return largest


class _Expected:
    """What training has, by series and cutoff."""

    def __init__(self, release: Release, recent: pl.DataFrame, forecasts: pl.DataFrame) -> None:
        self._release = release
        self._of_series = self._build_steps(forecasts)
        self._features = {
            (row["series_id"], row["cutoff"]): row
            for row in recent.with_columns(pl.col(release.schema.names).fill_nan(None)).iter_rows(named=True)
        }

    def _build_steps(self, forecasts: pl.DataFrame) -> dict[tuple[str, datetime], list[Mapping[str, Any]]]:
        steps: dict[tuple[str, datetime], list[Mapping[str, Any]]] = {}
        for row in forecasts.iter_rows(named=True):
            answer = self._release.kind.build_answer(self._release.about, row)
            steps.setdefault((row["series_id"], row["cutoff"]), []).append(answer)
        return steps

    def list_numbers(self, request: OnlineRequest, answer: Mapping[str, Any]) -> Iterator[Number]:
        """Every number of *answer*, and of training. Raises ReleaseError where it has none."""
        way, cutoff = request.way, request.cutoff
        if "problem" in answer:
            raise ReleaseError(
                f"The packaged service does not answer by {way} for {request.series[0]!r} at"
                f" {cutoff:%F %T}Z: {answer['problem']}"
            )
        answered = {series["series_id"]: series["steps"] for series in answer["series"]}
        forecasts = self._of_series
        if way == "history":  # without the errors of other series, by which a pooled forecast is calibrated
            forecasts = self._build_steps(predict_cutoffs(self._release, request.rows, [cutoff]))
        for name in request.series:
            when = f"{cutoff:%F %T}Z"
            if (row := self._features.get((name, cutoff))) is not None and name in answer["features"]:
                values = zip(self._release.schema.names, answer["features"][name], strict=True)
                for column, value in values:
                    yield Number(way, name, when, column, row[column], value)
            steps = forecasts.get((name, cutoff), [])
            n = max(len(steps), len(answered.get(name, [])))
            for i in range(n):
                ours, theirs = (
                    dict(_flatten(of[i])) if i < len(of) else {} for of in (steps, answered.get(name, []))
                )
                for column, value in ours.items():
                    yield Number(way, name, when, f"{column} of step {i + 1}", value, theirs.get(column))


def _flatten(step: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for key, value in step.items():
        if isinstance(value, Mapping):
            yield from ((f"{key} {name}", number) for name, number in value.items())
        elif key not in {"step", "event_time"}:
            yield key, value


def _select_recent(release: Release, table: pl.LazyFrame) -> pl.DataFrame:
    """The rows of *table* at the newest cutoffs, with `cutoff`."""
    key = table.select("series_id", "event_time").collect()
    n = max(2, min(MAX_CUTOFFS, MAX_FORECASTS // max(1, key["series_id"].n_unique())))
    newest = key["event_time"].unique().sort().tail(n)
    recent = table.filter(pl.col("event_time").is_in(newest.implode())).collect()
    return recent.with_columns(cutoff=release.calendar.nominal_known_at())


def _list_histories(
    release: Release, rows: pl.DataFrame, names: list[str], cutoffs: list[datetime]
) -> list[OnlineRequest]:
    """Requests with own histories, of series that can be forecast so.

    A history has no other series, no values known ahead, no text and no late rows, and begins where
    the quantiles begin to learn.
    """
    about = release.about
    if list_column_names(about, release.features, "others", "ahead") or about.text_columns:
        return []
    columns = [c for c, dtype in release.rows.schema.items() if dtype.is_float()]
    start = release.seen_until
    if release.history.height:
        start = min(start, release.history.select(pl.col("cutoff").max()).item())
    found = []
    for name in _spread(names, MAX_HISTORIES):
        of_series = rows.filter(series_id=name)
        times = of_series["event_time"].unique().sort()
        n_before = int(times.search_sorted(start)) - release.schema.lookback_steps - 3
        tail = of_series.filter(pl.col("event_time") >= times[max(0, n_before)])
        is_late = tail.filter(pl.col("known_at") > release.calendar.nominal_known_at()).height > 0
        if is_late or not 0 < tail["event_time"].n_unique() <= MAX_HISTORY_ROWS:
            continue
        for cutoff in cutoffs:
            known = select_as_of(tail, cutoff)
            if known.height and known["event_time"][-1] == times.filter(times < cutoff)[-1]:
                history = [
                    {**row, "event_time": row["event_time"].isoformat()}
                    for row in known.select("event_time", *columns).iter_rows(named=True)
                ]
                body = {"series_id": name, "as_of": cutoff.isoformat(), "history": history}
                found.append(OnlineRequest("history", cutoff, [name], known, body))
    return found


def _run_service(bento: Path, bodies: list[object]) -> list[Mapping[str, Any]]:
    """The answers of the code and the release in *bento*. Raises ReleaseError with what it said."""
    src = (bento / "src").absolute()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "requests.json").write_text(json.dumps(bodies))
        environment = build_child_environment(PYTHONPATH=str(src), PYTHONDONTWRITEBYTECODE="1")
        # its own release, and no other's settings
        environment = {k: v for k, v in environment.items() if not k.startswith("TIDEMILL_")}
        environment["TIDEMILL_HOME"] = str(folder / "home")
        module = "deployments.forecaster.online_values"
        command = [sys.executable, "-m", module, str(folder / "requests.json"), str(folder / "answers.json")]
        # By path: in its folder, `tasks` is the copy
        watch = [sys.executable, str(ROOT / "tasks/edges/parent_watch.py")]
        try:
            done = subprocess.run(
                [*watch, *command],
                cwd=src,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ReleaseError(
                f"The packaged service has not answered {len(bodies)} requests within {TIMEOUT_S:.0f} s. Run"
                " the stage again: `dvc repro -f package`."
            ) from error
        if done.returncode:
            output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
            raise ReleaseError(f"The packaged service does not answer:\n{output}")
        answers: list[Mapping[str, Any]] = json.loads((folder / "answers.json").read_text())
        return answers


def _spread(names: list[str], n: int) -> list[str]:
    """At most *n* of *names*, evenly spaced, the first among them."""
    return [names[i * len(names) // n] for i in range(n)] if len(names) > n else names
