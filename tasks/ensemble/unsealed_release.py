"""The shipped forecast as files: the unsealed releases that explain, quantize and package load."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.frames import HISTORY
from tasks.edges.artifacts import write_frame, write_json, write_sessions
from tasks.ensemble.combiner import compute_shares
from tasks.ensemble.issue import IntervalIssuer, compute_regimes
from tasks.ensemble.stage import ENSEMBLE, AssembledEnsemble, Candidate
from tasks.release import EnsembleSpec
from tasks.release.combine import find_plain_weights, list_member_columns


class ReleaseOrigin(NamedTuple):
    """The inputs of a release. stride_steps: distance of the members' cutoffs."""

    dataset: str
    data_version: str
    stride_steps: int


def write_unsealed_release(
    folder: Path,
    candidate: Candidate,
    assembled: AssembledEnsemble,
    origin: ReleaseOrigin,
    features: Path,
    fits: Path,
) -> None:
    """Write what the service loads, without the rows and the manifest that `package` adds.

    features, fits: folders of data/features and models/fits.
    """
    issuer = assembled.issuer
    dataset = issuer.aligned.panel.dataset
    spec = build_ensemble_spec(candidate, assembled, origin)
    write_members(folder, spec.members, fits)
    write_frame(folder / "history.parquet", build_history_frame(candidate, issuer), HISTORY)
    write_json(folder / "ensemble.json", spec.model_dump(mode="json", exclude_defaults=True))
    write_json(folder / "about.json", dataset.about.model_dump(mode="json"))
    for file in ("features.json", "schema.json", "leaks.json"):
        shutil.copyfile(features / file, folder / file)
    write_sessions(folder, dataset.calendar)


def build_ensemble_spec(
    candidate: Candidate, assembled: AssembledEnsemble, origin: ReleaseOrigin
) -> EnsembleSpec:
    """How the candidate's members are combined, and how its quantiles are computed."""
    issuer, aligned = assembled.issuer, assembled.issuer.aligned
    plain = find_plain_weights(candidate.combination)
    shares = compute_shares(candidate.combination, aligned.models)
    weights = plain or {m: float(w) for m, w in zip(aligned.models, shares, strict=True) if w > 0}
    return EnsembleSpec(
        model=candidate.name,
        weights=weights,
        quantiles=issuer.about.quantiles,
        group=issuer.group,
        residuals=issuer.n_residuals,
        adapt_rate=issuer.adapt_rate,
        block=issuer.block,
        regime=issuer.regime if issuer.group == "regime" else None,
        quantile_members=issuer.quantile_members,
        stride_steps=origin.stride_steps,
        seen_until=aligned.panel.cutoff[int(aligned.origins[aligned.n_walk - 1])],
        as_of=aligned.panel.cutoff[-1],
        dataset=origin.dataset,
        data_version=origin.data_version,
        combiner=assembled.choice.combiner if candidate.name == ENSEMBLE else "weighted",
        combination=None if plain else candidate.combination,
    )


def write_members(folder: Path, members: Sequence[str], fits: Path) -> None:
    """Copy the graphs of *members* from *fits* into `members/`."""
    (folder / "members").mkdir()
    for name in members:
        shutil.copyfile(fits / name / "model.onnx", folder / "members" / f"{name}.onnx")


def build_history_frame(candidate: Candidate, issuer: IntervalIssuer) -> pl.DataFrame:
    """HISTORY frame with the out-of-sample forecasts of the whole walk.

    z is null where seen_until does not know it. The frame has the whole walk, since the levels of
    the quantiles depend on the whole past: a replay of a part would not give those of the report.
    """
    aligned = issuer.aligned
    k, steps = np.arange(aligned.n_walk), candidate.z_hat.shape[2]
    known = aligned.is_known_by(aligned.n_walk - 1)[k]
    position = aligned.origins[aligned.known_k[k].clip(max=len(aligned.origins) - 1)].ravel()
    columns = {
        "z_hat": pl.Series(candidate.z_hat[k].ravel()),
        "scale": pl.Series(np.repeat(aligned.scale[k].ravel(), steps)),
        "z": pl.Series(np.where(known, aligned.z[k], np.nan).ravel()).fill_nan(None),
    }
    frame = aligned.build_keys(k).with_columns(**columns)
    frame = frame.with_columns(
        known_at=pl.when(pl.col("z").is_not_null()).then(aligned.panel.cutoff.gather(position))
    )
    if issuer.group == "regime" and issuer.regime:
        regime = compute_regimes(aligned, issuer.regime)[k].ravel()
        frame = frame.with_columns(regime=pl.Series(np.repeat(regime, steps)))
    if issuer.quantile_members:
        bases = aligned.build_base_quantiles(issuer.about.quantiles, candidate.z_hat)[k]
        frame = frame.with_columns(
            pl.Series(name, bases[..., i].ravel()).fill_nan(None)
            for i, name in enumerate(aligned.kind.list_columns(aligned.about)[1:])
        )
    # No columns unless weights move
    combination = candidate.combination
    for name, column in zip(combination.members, list_member_columns(combination), strict=False):
        z_hat = aligned.z_hat[aligned.models.index(name), k].ravel()
        frame = frame.with_columns(pl.Series(column, z_hat).fill_nan(None))
    return HISTORY.conform(frame.filter(pl.col("z_hat").is_not_nan()))
