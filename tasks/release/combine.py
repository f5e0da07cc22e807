"""How members become one forecast: by weights, that may move, or by rank.

The ensemble stage scores by this function, and what is served answers by it. A member that says
nothing (NaN) is left out and the weights of the others are scaled up to the same sum; a row says
nothing when none that counts is left. Weights of either sign (stacking) cannot be scaled up safely:
there, a row says nothing when one that counts is missing.
"""

from typing import Literal, NamedTuple

import numpy as np

from tasks.core.schema import SERIES_KEY, FeatureSchema
from tasks.core.strict import Strict

_LOW = 1 << 24  # the low half of a series' key lies below


class Regime(Strict):
    """Which weights a row gets by a number of its own: as many of *above* as *column* exceeds; 0
    where it is unknown.
    """

    column: str
    above: tuple[float, ...]


class Recency(Strict):
    """Weights that move with each outcome (tasks.release.recent). absolute: recent losses are
    mean absolute errors, not squared ones.
    """

    half_life_cutoffs: int
    absolute: bool = False


class Weights(Strict):
    """A weighted sum. members: order of the table. table: (G, M, H), or (G, M, 1) for one weight at
    every step; each sums to 1 over M.

    G groups of rows: one; or by *regime*, one more than its thresholds; or by *series*, keys (high,
    low) ascending, and a last group for every series that is not among them. whole: a row says
    nothing as soon as a member with weight says nothing. recent: the weights move with the members'
    losses, and the table is their mean over all series where they stood when this was made.
    """

    kind: Literal["weights"] = "weights"
    members: tuple[str, ...]
    table: tuple[tuple[tuple[float, ...], ...], ...]
    regime: Regime | None = None
    series: tuple[tuple[int, int], ...] = ()
    whole: bool = False
    recent: Recency | None = None


class Ranks(Strict):
    """A sum weighted by rank, the lowest forecast first: median, trimmed mean. table: (M + 1,
    M), a row for each number of members that speak.
    """

    kind: Literal["ranks"] = "ranks"
    members: tuple[str, ...]
    table: tuple[tuple[float, ...], ...]


Combination = Weights | Ranks


class CombinationFault(NamedTuple):
    """What a combination asks for and a schema has not. rule: what it needs."""

    fact: str
    rule: str


def build_plain_weights(weights: dict[str, float]) -> Weights:
    """One weight for each member, in the order of their names."""
    return Weights(
        members=tuple(sorted(weights)), table=(tuple((weights[name],) for name in sorted(weights)),)
    )


def find_plain_weights(how: Combination) -> dict[str, float] | None:
    """The weights of *how* when they are the same for every row and step and none is below 0,
    else None.
    """
    if (
        isinstance(how, Ranks)
        or how.whole
        or how.regime
        or how.series
        or how.recent
        or np.shape(how.table)[2] != 1
    ):
        return None
    return {name: of[0] for name, of in zip(how.members, how.table[0], strict=True)}


def find_recency(how: Combination) -> Recency | None:
    """How its weights move; None where they stay."""
    return how.recent if isinstance(how, Weights) else None


def list_member_columns(how: Combination) -> list[str]:
    """Columns of HISTORY with what each member says alone, in the order of `how.members`; none
    unless weights move.
    """
    return [f"z_hat_{name}" for name in how.members] if find_recency(how) else []


def find_combination_fault(how: Combination, schema: FeatureSchema) -> CombinationFault | None:
    """The first thing that keeps *how* from being computed on rows of *schema*; None when there
    is nothing.
    """
    n, shape = len(how.members), np.shape(how.table)
    if isinstance(how, Ranks):
        return (
            None
            if shape == (n + 1, n)
            else CombinationFault(f"its table is {shape}", f"ranks of {n} members need {(n + 1, n)}")
        )
    n_groups = len(how.regime.above) + 1 if how.regime else len(how.series) + 1 if how.series else 1
    if shape not in {(n_groups, n, 1), (n_groups, n, schema.horizon_steps)}:
        return CombinationFault(
            f"its table is {shape}",
            f"{n_groups} groups and {n} members need {(n_groups, n, schema.horizon_steps)}",
        )
    wanted = [how.regime.column] if how.regime else list(SERIES_KEY) if how.series else []
    missing = [name for name in wanted if name not in schema.names]
    return (
        CombinationFault(
            f"the schema has no column {missing[0]!r}", "it tells a row's weights by that column"
        )
        if missing
        else None
    )


def compute_weight_groups(how: Combination, x: np.ndarray, schema: FeatureSchema) -> np.ndarray:
    """(n,) row of the table for each of the feature rows x (n, F)."""
    if isinstance(how, Weights) and how.regime:
        return compute_regime(how.regime, x, schema)
    if isinstance(how, Weights) and how.series:
        high, low = (
            np.nan_to_num(x[:, schema.index(name)].astype(np.float64), nan=-1).astype(np.int64)
            for name in SERIES_KEY
        )
        key, known = high * _LOW + low, np.array([h * _LOW + low_half for h, low_half in how.series])
        at = np.minimum(np.searchsorted(known, key), len(known) - 1)
        return np.where(known[at] == key, at, len(known))
    return np.zeros(len(x), dtype=np.int64)


def compute_regime(regime: Regime, x: np.ndarray, schema: FeatureSchema) -> np.ndarray:
    """(...) regime of each of the feature rows x (..., F)."""
    own = x[..., schema.index(regime.column), None].astype(np.float64)
    above: np.ndarray = (own > np.array(regime.above)).sum(axis=-1)
    return above


def apply_combination(how: Combination, z_hats: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(n, H) float64 of the members' forecasts (n, M, H), in the order of `how.members`; NaN
    where nothing can be said. group: (n,).
    """
    return (
        _compute_ranked_average(how, z_hats)
        if isinstance(how, Ranks)
        else compute_weighted_average(np.asarray(how.table), z_hats, group, whole=how.whole)
    )


def compute_weighted_average(
    table: np.ndarray, z_hats: np.ndarray, group: np.ndarray, *, whole: bool = False
) -> np.ndarray:
    """As `combine`, by the weights table (G, M, H or 1)."""
    out, left, lost = (np.zeros((len(z_hats), z_hats.shape[2])) for _ in range(3))
    for of_member, said in zip(table.transpose(1, 0, 2), z_hats.transpose(1, 0, 2), strict=True):
        weight, there = np.broadcast_to(of_member[group], said.shape), np.isfinite(said)
        out += np.where(there, weight * said.astype(np.float64), 0.0)
        left += np.where(there, weight, 0.0)
        lost += np.where(there, 0.0, np.abs(weight))
    if not lost.any():
        return out
    sayable = (lost == 0) | ((left > 0) & (not whole))
    return np.where(sayable, out / np.where((lost > 0) & sayable, left, 1.0), np.nan)


def _compute_ranked_average(how: Ranks, z_hats: np.ndarray) -> np.ndarray:
    there = np.isfinite(z_hats)
    ordered = np.sort(np.where(there, z_hats.astype(np.float64), np.inf), axis=1)
    n = there.sum(axis=1)
    weights = np.asarray(how.table)[n]  # (n, H, M)
    out = np.zeros(n.shape)
    for rank in range(z_hats.shape[1]):
        out += np.where(
            weights[:, :, rank] != 0, weights[:, :, rank] * np.where(rank < n, ordered[:, rank], 0.0), 0.0
        )
    return np.where(n > 0, out, np.nan)
