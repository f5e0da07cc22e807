"""`tidemill forecast`: the champion's forecast without a server, from the service's rows."""

import difflib
from datetime import UTC, datetime
from typing import TypedDict, cast

import polars as pl

from deployments.forecaster.shapes import Absent, Step
from tasks.core.errors import ParamsError, ReleaseError
from tasks.core.frames import SERIES, get_newest_known_at
from tasks.edges.artifacts import read_frame
from tasks.edges.params import read_dataset
from tasks.edges.registry import get_champion_folder, get_rows_path, read_champion
from tasks.release import Release, find_absence_reasons, load_release, predict_cutoffs


class LocalModel(TypedDict):
    """The release that made the forecast."""

    name: str
    version: str
    digest: str


class LocalSeries(TypedDict):
    """One series; nothing that became known after the cutoff was used."""

    series_id: str
    cutoff: str
    steps: list[Step]


class LocalForecast(TypedDict):
    """A forecast, with the keys of the service's answers.

    absent: series that cannot be forecast, with the reason.
    """

    dataset: str
    target: str
    unit: str
    as_of: str
    model: LocalModel
    series: list[LocalSeries]
    absent: list[Absent]


def make_forecast(as_of: str | None, series: str | None) -> LocalForecast:
    """The champion's forecast as of *as_of* (ISO 8601; None: the newest known).

    A series that cannot be forecast then is in `absent`, with the reason.
    Raises ReleaseError without a champion, ParamsError for a time that cannot be read and for a
    series that there is not.
    """
    dataset = read_dataset()
    champion = read_champion(dataset)
    if champion is None:
        raise ReleaseError(f"No champion of {dataset!r} yet. `tidemill run` or `dvc repro` makes one.")
    release = load_release(get_champion_folder(champion))
    rows = read_frame(get_rows_path(dataset), SERIES) if get_rows_path(dataset).exists() else release.rows
    as_of_time = get_newest_known_at(rows) if as_of is None else parse_option_time("--as-of", as_of)
    made = predict_cutoffs(release, rows, [as_of_time])
    forecast_ids = made["series_id"].unique().sort().to_list()
    absent = find_absence_reasons(release, rows, as_of_time)
    if series is not None:
        _check_series(series, {*forecast_ids, *absent})
    asked = [name for name in forecast_ids if series in {None, name}]
    about = release.about
    return {
        "dataset": dataset,
        "target": about.target.column,
        "unit": about.target.unit,
        "as_of": _format_iso(as_of_time),
        "model": {"name": release.model, "version": champion.version, "digest": champion.digest},
        "series": [_build_series(made.filter(pl.col("series_id") == name), release) for name in asked],
        "absent": [
            {"series_id": name, "reason": reason}
            for name, reason in sorted(absent.items())
            if name not in forecast_ids and series in {None, name}
        ],
    }


def _check_series(series: str, known: set[str]) -> None:
    if series not in known:
        names = difflib.get_close_matches(series, known, n=3) or sorted(known)[:20]
        raise ParamsError(f"There is no series {series!r}. There are: {', '.join(names)}.")


def _build_series(frame: pl.DataFrame, release: Release) -> LocalSeries:
    steps = [
        {
            "step": row["step"],
            "event_time": _format_iso(row["event_time"]),
            **release.kind.build_answer(release.about, row),
        }
        for row in frame.sort("step").to_dicts()
    ]
    return {
        "series_id": frame["series_id"][0],
        "cutoff": _format_iso(frame["cutoff"][0]),
        "steps": cast("list[Step]", steps),  # of a numeric target; other kinds have columns of their own
    }


def parse_option_time(option: str, text: str) -> datetime:
    """The time that *option* gives, in UTC. Raises ParamsError when it is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ParamsError(
            f"{option} is {text!r}; give ISO 8601, for example 2018-06-01 or 2018-06-01T21:00Z."
        ) from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _format_iso(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
