"""What is shipped, as files: the bodies that explain, quantize and package load, and the frames behind the reports."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.frames import FORECAST, HISTORY, UTC, quantile_columns
from tasks.core.transform import from_z
from tasks.edges.artifacts import write_frame
from tasks.ensemble.align import Aligned
from tasks.ensemble.stage import Candidate


def write_members(folder: Path, weights: dict[str, float], fits: Path) -> None:
    """Copy the graphs of the weighted members from models/fits into `members/`."""
    (folder / "members").mkdir()
    for name in weights:
        shutil.copyfile(fits / name / "model.onnx", folder / "members" / f"{name}.onnx")


def history_frame(candidate: Candidate, aligned: Aligned) -> pl.DataFrame:
    """HISTORY: the out-of-sample forecasts of the whole walk; z is null where seen_until does not know it.

    All of them, since the levels of the quantiles remember: replayed from a part, they would not be those of the report.
    """
    k = np.arange(aligned.n_walk)
    known = aligned.known_by(aligned.n_walk - 1)[k]
    frame = _long(aligned, k).with_columns(
        z_hat=pl.Series(candidate.z_hat[k].ravel()),
        scale=pl.Series(np.repeat(aligned.scale[k].ravel(), candidate.z_hat.shape[2])),
        z=pl.Series(np.where(known, aligned.z[k], np.nan).ravel()).fill_nan(None),
    )
    position = aligned.origins[aligned.known_k[k].clip(max=len(aligned.origins) - 1)].ravel()
    frame = frame.with_columns(known_at=pl.when(pl.col("z").is_not_null()).then(aligned.panel.cutoff.gather(position)))
    return HISTORY.conform(frame.filter(pl.col("z_hat").is_not_nan()))


def issued_frame(candidate: Candidate, aligned: Aligned, about: About, rows: np.ndarray) -> pl.DataFrame:
    """FORECAST with quantiles and y of the cutoffs marked in *rows* (K,), as this candidate would have issued them."""
    k = np.flatnonzero(rows)
    columns = {"y_hat": candidate.issued.point[k], "y": aligned.y[k]}
    columns = {"y_hat": from_z(about.target, columns["y_hat"]), "y": columns["y"]}
    for i, name in enumerate(quantile_columns(about.quantiles)):
        columns[name] = from_z(about.target, candidate.issued.quantiles[k, :, :, i])
    frame = _long(aligned, k).with_columns(
        model=pl.lit(candidate.name), **{name: pl.Series(values.ravel()).fill_nan(None) for name, values in columns.items()}
    )
    return FORECAST.conform(frame.filter(pl.col("y_hat").is_not_null()))


def loss_frame(candidates: dict[str, Candidate], aligned: Aligned, rows: np.ndarray) -> pl.DataFrame:
    """Mean primary loss of each candidate, cutoff and series: model, series_id, cutoff, loss."""
    k = np.flatnonzero(rows)
    n_series = len(aligned.panel.series_ids)
    parts = []
    for name, candidate in candidates.items():
        loss = candidate.loss[k]
        n = np.isfinite(loss).sum(axis=2)
        mean = np.where(n > 0, np.nansum(loss, axis=2) / np.maximum(n, 1), np.nan)
        parts.append(
            pl.DataFrame(
                {
                    "model": [name] * mean.size,
                    "series_id": list(aligned.panel.series_ids) * len(k),
                    "cutoff": aligned.panel.cutoff.gather(np.repeat(aligned.origins[k], n_series)),
                    "loss": mean.ravel(),
                }
            )
        )
    return pl.concat(parts).filter(pl.col("loss").is_not_nan())


def write_frames(
    folder: Path, chosen: Candidate, candidates: dict[str, Candidate], aligned: Aligned, about: About, scored: np.ndarray, gate: np.ndarray
) -> None:
    """forecast.parquet, gate.parquet and losses.parquet of the report."""
    write_frame(folder / "forecast.parquet", issued_frame(chosen, aligned, about, scored), FORECAST)
    write_frame(folder / "gate.parquet", issued_frame(chosen, aligned, about, gate), FORECAST)
    loss_frame(candidates, aligned, scored | gate).write_parquet(folder / "losses.parquet")


def _long(aligned: Aligned, k: np.ndarray) -> pl.DataFrame:
    """series_id, cutoff, step, event_time of every (cutoff, series, step), in that order."""
    panel, steps = aligned.panel, aligned.panel.schema.horizon_steps
    n_series = len(panel.series_ids)
    ahead = aligned.origins[k][:, None, None] + np.arange(1, steps + 1)[None, None, :]
    ahead = np.broadcast_to(ahead, (len(k), n_series, steps)).ravel()
    return pl.DataFrame(
        {
            "series_id": pl.Series(panel.series_ids, dtype=pl.String).gather(np.tile(np.repeat(np.arange(n_series), steps), len(k))),
            "cutoff": panel.cutoff.gather(np.repeat(aligned.origins[k], n_series * steps)),
            "step": np.tile(np.arange(1, steps + 1, dtype=np.int32), len(k) * n_series),
            "event_time": aligned.times.gather(ahead).cast(UTC),
        }
    )
