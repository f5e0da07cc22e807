"""What a release's graphs give for feature rows: its members, their combination and quantiles.

A sealed release is one graph, `ensemble.onnx`, with an output for each of these. What does not
convert has a graph of its own under members/, or is computed here, by the same names. An unsealed
release has the members' graphs alone.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from tasks.core.blocks import split_blocks
from tasks.release.combine import apply_combination, compute_weight_groups, find_recency
from tasks.release.load import Release
from tasks.release.manifest import BASES, Z_HAT, EnsembleSpec, get_member_output

BLOCK_ROWS = 8192  # bounds the memory of one call into a graph; trees need a few kB for each row


def predict_ensemble(release: Release, x: np.ndarray) -> np.ndarray:
    """The combined forecast (n, H) float64 in the space in which members are combined.

    It is a distance from the centre of each row's series, as the levels in x are.
    x: (n, F) float32 feature rows in the order of the schema; n may be 0.
    """
    return run_outputs(release, x, [Z_HAT])[0]


def predict_quantile_bases(release: Release, x: np.ndarray, point: np.ndarray) -> np.ndarray | None:
    """The members' own quantiles (n, H, Q); None without CQR.

    x: (n, F) feature rows.
    point: (n, H), used for a quantile that no member forecasts.
    """
    if not release.ensemble.quantile_members:
        return None
    return fill_bases(release.ensemble, run_outputs(release, x, [BASES])[0], point)


def fill_bases(ensemble: EnsembleSpec, bases: np.ndarray, point: np.ndarray) -> np.ndarray:
    """*bases* (..., Q) with *point* (...) for each quantile that no member forecasts."""
    is_forecast = [f"{q:g}" in ensemble.quantile_members for q in ensemble.quantiles]
    return np.where(is_forecast, bases, point[..., None])


def list_member_outputs(release: Release) -> list[str]:
    """The outputs of the combined members, in the order of the combination."""
    return [get_member_output(name) for name in release.combination.members]


def list_forecast_outputs(release: Release) -> list[str]:
    """The outputs that a forecast needs: the members' where weights move, else the combination's.

    BASES is the last one, with CQR.
    """
    point = list_member_outputs(release) if find_recency(release.combination) else [Z_HAT]
    return [*point, BASES] if release.ensemble.quantile_members else point


def run_outputs(release: Release, x: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
    """Each of *outputs* for x (n, F), float64, in the space in which members are combined.

    outputs: Z_HAT (n, H); BASES (n, H, Q), of no meaning for a quantile that no member forecasts;
      `get_member_output` of a member (n, H).
    """
    shape = (0, release.schema.horizon_steps)
    found: list[list[np.ndarray]] = [
        [np.zeros((*shape, len(release.ensemble.quantiles)) if output == BASES else shape)]
        for output in outputs
    ]
    for part in split_blocks(len(x), BLOCK_ROWS):
        block = _run_block(release, np.ascontiguousarray(x[part], dtype=np.float32), outputs)
        for i, output in enumerate(outputs):
            found[i].append(block[output])
    return [np.concatenate(parts) for parts in found]


def _run_block(release: Release, x: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    in_graph = release.graph_outputs
    missing = set(outputs) - in_graph
    of_members = {get_member_output(name) for name in _list_needed_members(release, missing)}
    from_graph = sorted((set(outputs) | of_members) & in_graph)
    found = dict(zip(from_graph, release.graph.run(from_graph, {"x": x}), strict=True)) if from_graph else {}
    for name, session in release.members.items():
        if (output := get_member_output(name)) in of_members and output not in found:
            found[output] = session.run([Z_HAT], {"x": x})[0]
    for output in found.keys() - {Z_HAT, BASES}:
        found[output] = release.kind.link(found[output])
    if Z_HAT in missing:
        z_hats = np.stack([found[output] for output in list_member_outputs(release)], axis=1)
        group = compute_weight_groups(release.combination, x, release.schema)
        found[Z_HAT] = apply_combination(release.combination, z_hats, group)
    if BASES in missing:
        found[BASES] = _average_quantiles(release.ensemble, found)
    return {output: found[output].astype(np.float64, copy=False) for output in outputs}


def _list_needed_members(release: Release, outputs: Iterable[str]) -> set[str]:
    """Names of the members that *outputs* are computed from."""
    names: set[str] = set()
    for output in outputs:
        if output == Z_HAT:
            names.update(release.combination.members)
        elif output == BASES:
            names.update(*release.ensemble.quantile_members.values())
        else:
            names.update(name for name in release.ensemble.members if get_member_output(name) == output)
    return names


def _average_quantiles(ensemble: EnsembleSpec, found: dict[str, np.ndarray]) -> np.ndarray:
    """(n, H, Q) means of the members that forecast each quantile."""
    means = [
        np.mean([found[get_member_output(name)].astype(np.float64) for name in names], axis=0)
        for names in ensemble.list_quantile_members()
    ]
    return np.stack(means, axis=-1)
