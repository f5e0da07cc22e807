"""How members become one forecast: by weights, which may move, or by rank.

The ensemble stage scores by this function, and what is served answers by it. A member whose
forecast is NaN is left out, and the weights of the others are scaled up to the same sum; a row is
NaN when none with a weight is left. Weights of either sign (stacking) cannot be scaled up safely:
there, a row is NaN when one with a weight is missing.
"""

from typing import Literal, NamedTuple

import numpy as np

from tasks.core.schema import SERIES_KEY, FeatureSchema
from tasks.core.strict import Strict

_LOW = 1 << 24  # the low half of a series' key is below it


class Regime(Strict):
    """Which weights a row gets, by one of its numbers.

    column: of the number.
    above: thresholds; the regime is how many of them the number exceeds, 0 where it is unknown.
    """

    column: str
    above: tuple[float, ...]


class Recency(Strict):
    """Weights that move with each outcome (tasks.release.recent).

    absolute: recent losses are mean absolute errors, not squared ones.
    """

    half_life_cutoffs: int
    absolute: bool = False


class Weights(Strict):
    """A weighted sum of the members.

    members: order of the table.
    table: (G, M, H), or (G, M, 1) for one weight at every step; each sums to 1 over M. G groups of
      rows: one; or by *regime*, one more than its thresholds; or by *series* and a last group for
      every other series.
    series: keys (high, low), ascending.
    whole: a row is NaN as soon as a member with weight is.
    recent: the weights move with the members' losses; the table is then their mean over all series
      at the time when this was made.
    """

    kind: Literal["weights"] = "weights"
    members: tuple[str, ...]
    table: tuple[tuple[tuple[float, ...], ...], ...]
    regime: Regime | None = None
    series: tuple[tuple[int, int], ...] = ()
    whole: bool = False
    recent: Recency | None = None


class Ranks(Strict):
    """A sum weighted by rank, the lowest forecast first: median, trimmed mean.

    table: (M + 1, M), a row for each number of members that are not NaN.
    """

    kind: Literal["ranks"] = "ranks"
    members: tuple[str, ...]
    table: tuple[tuple[float, ...], ...]


Combination = Weights | Ranks


class CombinationFault(NamedTuple):
    """What a combination needs and a schema does not have.

    rule: what it needs.
    """

    fact: str
    rule: str


def build_plain_weights(weights: dict[str, float]) -> Weights:
    """One weight for each member, in the order of their names."""
    return Weights(
        members=tuple(sorted(weights)), table=(tuple((weights[name],) for name in sorted(weights)),)
    )


def find_plain_weights(combination: Combination) -> dict[str, float] | None:
    """The weights when they are the same for every row and step and none is below 0, else None."""
    if (
        isinstance(combination, Ranks)
        or combination.whole
        or combination.regime
        or combination.series
        or combination.recent
        or np.shape(combination.table)[2] != 1
    ):
        return None
    return {name: of[0] for name, of in zip(combination.members, combination.table[0], strict=True)}


def find_recency(combination: Combination) -> Recency | None:
    """How the weights move; None where they do not."""
    return combination.recent if isinstance(combination, Weights) else None


def list_member_columns(combination: Combination) -> list[str]:
    """Columns of HISTORY with the forecast of each member alone, in the order of the members.

    None unless weights move.
    """
    return [f"z_hat_{name}" for name in combination.members] if find_recency(combination) else []


def find_combination_fault(combination: Combination, schema: FeatureSchema) -> CombinationFault | None:
    """The first thing that keeps *combination* from being computed on rows of *schema*, if any."""
    n, shape = len(combination.members), np.shape(combination.table)
    if isinstance(combination, Ranks):
        return (
            None
            if shape == (n + 1, n)
            else CombinationFault(f"its table is {shape}", f"ranks of {n} members need {(n + 1, n)}")
        )
    n_groups = (
        len(combination.regime.above) + 1
        if combination.regime
        else len(combination.series) + 1
        if combination.series
        else 1
    )
    if shape not in {(n_groups, n, 1), (n_groups, n, schema.horizon_steps)}:
        return CombinationFault(
            f"its table is {shape}",
            f"{n_groups} groups and {n} members need {(n_groups, n, schema.horizon_steps)}",
        )
    wanted = (
        [combination.regime.column] if combination.regime else list(SERIES_KEY) if combination.series else []
    )
    missing = [name for name in wanted if name not in schema.names]
    return (
        CombinationFault(
            f"the schema has no column {missing[0]!r}", "the weights of a row depend on that column"
        )
        if missing
        else None
    )


def compute_weight_groups(combination: Combination, x: np.ndarray, schema: FeatureSchema) -> np.ndarray:
    """(n,) row of the table for each of the feature rows x (n, F)."""
    if isinstance(combination, Weights) and combination.regime:
        return compute_regime(combination.regime, x, schema)
    if isinstance(combination, Weights) and combination.series:
        high, low = (
            np.nan_to_num(x[:, schema.index(name)].astype(np.float64), nan=-1).astype(np.int64)
            for name in SERIES_KEY
        )
        key, known = high * _LOW + low, np.array([h * _LOW + low_half for h, low_half in combination.series])
        index = np.minimum(np.searchsorted(known, key), len(known) - 1)
        return np.where(known[index] == key, index, len(known))
    return np.zeros(len(x), dtype=np.int64)


def compute_regime(regime: Regime, x: np.ndarray, schema: FeatureSchema) -> np.ndarray:
    """(...) regime of each of the feature rows x (..., F)."""
    values = x[..., schema.index(regime.column), None].astype(np.float64)
    above: np.ndarray = (values > np.array(regime.above)).sum(axis=-1)
    return above


def apply_combination(combination: Combination, z_hats: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(n, H) float64 of the members' forecasts (n, M, H), in the order of the members.

    group: (n,). NaN where no member is known.
    """
    return (
        _compute_ranked_average(combination, z_hats)
        if isinstance(combination, Ranks)
        else compute_weighted_average(np.asarray(combination.table), z_hats, group, whole=combination.whole)
    )


def compute_weighted_average(
    table: np.ndarray, z_hats: np.ndarray, group: np.ndarray, *, whole: bool = False
) -> np.ndarray:
    """As `apply_combination`, by the weights table (G, M, H or 1)."""
    out, left, lost = (np.zeros((len(z_hats), z_hats.shape[2])) for _ in range(3))
    for of_member, z_hat in zip(table.transpose(1, 0, 2), z_hats.transpose(1, 0, 2), strict=True):
        weight, is_known = np.broadcast_to(of_member[group], z_hat.shape), np.isfinite(z_hat)
        out += np.where(is_known, weight * z_hat.astype(np.float64), 0.0)
        left += np.where(is_known, weight, 0.0)
        lost += np.where(is_known, 0.0, np.abs(weight))
    if not lost.any():
        return out
    is_defined = (lost == 0) | ((left > 0) & (not whole))
    return np.where(is_defined, out / np.where((lost > 0) & is_defined, left, 1.0), np.nan)


def compute_row_weights(combination: Combination, z_hats: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(n, M, H) weights whose sum of products with z_hats (n, M, H) is `apply_combination`.

    A member that is left out has 0. group: (n,).
    """
    is_known = np.isfinite(z_hats)
    if isinstance(combination, Ranks):
        rank = np.where(is_known, z_hats, np.inf).argsort(axis=1, kind="stable").argsort(axis=1)
        of_rank = np.asarray(combination.table)[is_known.sum(axis=1)]  # (n, H, M)
        ranked: np.ndarray = np.take_along_axis(of_rank.transpose(0, 2, 1), rank, axis=1)
        return np.where(is_known, ranked, 0.0)
    weights = np.broadcast_to(np.asarray(combination.table)[group], z_hats.shape)
    left = np.where(is_known, weights, 0.0)
    lost = np.where(is_known, 0.0, np.abs(weights)).sum(axis=1, keepdims=True)
    total = np.where(lost > 0, left.sum(axis=1, keepdims=True), 1.0)
    out: np.ndarray = np.divide(left, total, out=np.zeros_like(left), where=total > 0)
    return out


def _compute_ranked_average(combination: Ranks, z_hats: np.ndarray) -> np.ndarray:
    is_known = np.isfinite(z_hats)
    ordered = np.sort(np.where(is_known, z_hats.astype(np.float64), np.inf), axis=1)
    n = is_known.sum(axis=1)
    weights = np.asarray(combination.table)[n]  # (n, H, M)
    out = np.zeros(n.shape)
    for rank in range(z_hats.shape[1]):
        out += np.where(
            weights[:, :, rank] != 0, weights[:, :, rank] * np.where(rank < n, ordered[:, rank], 0.0), 0.0
        )
    return np.where(n > 0, out, np.nan)
