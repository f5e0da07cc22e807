"""A release as a model of MLflow: what `mlflow.pyfunc.load_model` calls.

It travels in the model's code folder with the rest of `tasks` that it needs. pandas is what MLflow
passes and wants back; it is imported by MLflow before.
"""

from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from tasks.core.frames import SERIES, UTC, get_newest_known_at
from tasks.release.load import Release, load_release
from tasks.release.predict import predict_cutoffs


class ReleaseModel:
    """Forecasts of one release. MLflow calls `predict`."""

    def __init__(self, release: Release) -> None:
        self.release = release

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        """FORECAST rows as pandas, sorted by series and step, as of the newest row.

        model_input: a pandas frame with `series_id`: these series from the rows that travel with
          the release; or rows of SERIES (`series_id`, `event_time`, the values; `known_at` or when
          each step is over): forecasts from these alone. Times are UTC. MLflow has compared it with
          the model's signature.
        A series that cannot be forecast is absent.
        """
        given = pl.from_pandas(model_input)
        has_rows = "event_time" in given.columns and given["event_time"].null_count() < given.height
        rows = self._convert_rows(given) if has_rows else self.release.rows
        made = predict_cutoffs(self.release, rows, [get_newest_known_at(rows)])
        asked = made.filter(pl.col("series_id").is_in(given["series_id"].unique().implode()))
        return asked.sort("series_id", "step").to_pandas()

    def _convert_rows(self, given: pl.DataFrame) -> pl.DataFrame:
        times = cs.by_name("event_time", "known_at", require_all=False)  # MLflow refuses zoned ones
        rows = given.with_columns(times.dt.replace_time_zone("UTC").cast(UTC), cs.integer().cast(pl.Float64))
        if "known_at" not in rows.columns or rows["known_at"].null_count():
            rows = rows.with_columns(known_at=self.release.calendar.nominal_known_at())
        return SERIES.conform(rows)


def _load_pyfunc(path: str) -> ReleaseModel:
    """MLflow's entry point. path: the model's data, a sealed release."""
    return ReleaseModel(load_release(Path(path)))
