"""What is shipped, as files: the bodies that explain, quantize and package load, and the frames
behind the reports.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.frames import FORECAST, HISTORY, format_quantile_columns
from tasks.edges.artifacts import write_frame
from tasks.ensemble.align import AlignedForecasts
from tasks.ensemble.issue import IntervalIssuer, build_issued_frame, compute_regimes
from tasks.ensemble.stage import Candidate
from tasks.release.combine import list_member_columns


def write_members(folder: Path, members: Sequence[str], fits: Path) -> None:
    """Copy the graphs of the members that have a part from models/fits into `members/`."""
    (folder / "members").mkdir()
    for name in members:
        shutil.copyfile(fits / name / "model.onnx", folder / "members" / f"{name}.onnx")


def build_history_frame(candidate: Candidate, issuer: IntervalIssuer) -> pl.DataFrame:
    """HISTORY: the out-of-sample forecasts of the whole walk; z is null where seen_until does not
    know it.

    All of them, since the levels of the quantiles remember: replayed from a part, they would not be
    those of the report.
    """
    aligned = issuer.aligned
    k = np.arange(aligned.n_walk)
    known = aligned.is_known_by(aligned.n_walk - 1)[k]
    frame = aligned.keys(k).with_columns(
        z_hat=pl.Series(candidate.z_hat[k].ravel()),
        scale=pl.Series(np.repeat(aligned.scale[k].ravel(), candidate.z_hat.shape[2])),
        z=pl.Series(np.where(known, aligned.z[k], np.nan).ravel()).fill_nan(None),
    )
    position = aligned.origins[aligned.known_k[k].clip(max=len(aligned.origins) - 1)].ravel()
    frame = frame.with_columns(
        known_at=pl.when(pl.col("z").is_not_null()).then(aligned.panel.cutoff.gather(position))
    )
    if issuer.group == "regime" and issuer.regime:
        frame = frame.with_columns(
            regime=pl.Series(
                np.repeat(compute_regimes(aligned, issuer.regime)[k].ravel(), candidate.z_hat.shape[2])
            )
        )
    if issuer.quantile_members:
        own = aligned.build_base_quantiles(issuer.about.quantiles, candidate.z_hat)[k]
        names = format_quantile_columns(issuer.about.quantiles)
        frame = frame.with_columns(
            pl.Series(name, own[..., i].ravel()).fill_nan(None) for i, name in enumerate(names)
        )
    # No columns unless weights move
    for name, column in zip(candidate.how.members, list_member_columns(candidate.how), strict=False):
        frame = frame.with_columns(
            pl.Series(column, aligned.z_hat[aligned.models.index(name), k].ravel()).fill_nan(None)
        )
    return HISTORY.conform(frame.filter(pl.col("z_hat").is_not_nan()))


def build_loss_frame(
    candidates: dict[str, Candidate], aligned: AlignedForecasts, rows: np.ndarray
) -> pl.DataFrame:
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
    folder: Path,
    chosen: Candidate,
    candidates: dict[str, Candidate],
    aligned: AlignedForecasts,
    about: About,
    scored: np.ndarray,
    gate: np.ndarray,
) -> None:
    """forecast.parquet, gate.parquet and losses.parquet of the report."""
    write_frame(
        folder / "forecast.parquet",
        build_issued_frame(chosen.name, chosen.issued, aligned, about, scored),
        FORECAST,
    )
    write_frame(
        folder / "gate.parquet",
        build_issued_frame(chosen.name, chosen.issued, aligned, about, gate),
        FORECAST,
    )
    build_loss_frame(candidates, aligned, scored | gate).write_parquet(folder / "losses.parquet")
