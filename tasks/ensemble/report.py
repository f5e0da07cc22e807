"""Figures of the report in addition to scores.

Gains with the chance that they are luck, correlations between the members' errors, and each
member's marginal contribution.
"""

import math
from collections.abc import Mapping

import numpy as np

from tasks.core.compare import LEAST, compute_block_size, diebold_mariano, model_confidence_set
from tasks.core.cosine import compute_cosine_test
from tasks.core.reports.ensemble import BestModels, CombinerResult, Comparison, Gain, Gains
from tasks.ensemble.align import AlignedForecasts
from tasks.ensemble.choose import MIN_PAIRS, CombinerChoice

MCS_ALPHA = 0.1  # the set that holds the best model with a chance of 90 %, as is usual


def compare_models(ours: np.ndarray, losses: Mapping[str, np.ndarray], overlap: int) -> dict[str, Comparison]:
    """By model, how much lower the mean loss of *ours* is than the model's.

    ours, losses: (k, S, H).
    gain_frac: 1 - mean of ours / mean of the model's.
    p: one-sided, that ours is not lower at all; by the cosine test, as the gate uses.
    p_diebold_mariano: by the Diebold-Mariano test, for *overlap* cutoffs that share outcomes.
    """
    out = {}
    for name, theirs in losses.items():
        both = np.isfinite(ours) & np.isfinite(theirs)
        n = both.sum(axis=(1, 2))
        if (n > 0).sum() < MIN_PAIRS:
            continue
        mean_ours, mean_theirs = (
            np.where(both, loss, 0.0).sum(axis=(1, 2))[n > 0] / n[n > 0] for loss in (ours, theirs)
        )
        gain = 1.0 - float(mean_ours.mean() / mean_theirs.mean()) if mean_theirs.mean() > 0 else 0.0
        difference = mean_theirs - mean_ours
        enough = LEAST <= len(difference) > 2 * overlap
        out[name] = Comparison(
            gain_frac=gain,
            p=compute_cosine_test(difference).p,
            n_cutoffs=len(difference),
            p_diebold_mariano=diebold_mariano(difference, overlap).p if enough else None,
        )
    return out


def compute_confidence_set(losses: Mapping[str, np.ndarray], overlap: int) -> BestModels | None:
    """Models that may be the best of all at MCS_ALPHA, with their p.

    losses: (k, S, H) by model; compared on the forecasts that all models made.
    None for too few cutoffs.
    """
    stacked = np.stack(list(losses.values()), axis=-1)
    both = np.isfinite(stacked).all(axis=-1)
    n = both.sum(axis=(1, 2))
    if (n > 0).sum() < LEAST:
        return None
    means = np.where(both[..., None], stacked, 0.0).sum(axis=(1, 2))[n > 0] / n[n > 0, None]
    block = compute_block_size(len(means), overlap)
    result = model_confidence_set(means, block, seed=0)
    inside = result.members(MCS_ALPHA)
    return BestModels(
        alpha=MCS_ALPHA,
        n_cutoffs=len(means),
        block_cutoffs=block,
        members=tuple(name for name, is_inside in zip(losses, inside, strict=True) if is_inside),
        p=dict(zip(losses, result.p.tolist(), strict=True)),
    )


def count_overlap(aligned: AlignedForecasts) -> int:
    """How many neighbouring cutoffs of the walk share outcomes: the horizon in strides."""
    stride = int(np.diff(aligned.origins[: aligned.n_walk]).min(initial=aligned.y.shape[2]))
    return max(1, -(-aligned.y.shape[2] // max(1, stride)))


def compute_gains(
    comparisons: Mapping[str, Comparison], losses: Mapping[str, float], members: tuple[str, ...]
) -> Gains:
    """Gains of the ensemble over HAR, where there is one, the median and the best member.

    losses: mean of each. The best member is known only in hindsight.
    """
    ranked = sorted((m for m in members if m in comparisons), key=lambda m: losses[m])
    if not ranked:
        return Gains(text=f"fewer than {MIN_PAIRS} scored cutoffs have outcomes, too few to test a gain")
    models = {"har": "har"} if "har" in ranked else {}
    models |= {"median_member": ranked[len(ranked) // 2], "best_member": ranked[0]}
    gains = {
        role: Gain(model=m, gain_frac=comparisons[m].gain_frac, p=comparisons[m].p)
        for role, m in models.items()
    }
    roles = {
        "har": "HAR",
        "median_member": "the median member",
        "best_member": "the best member in hindsight",
    }
    titles: dict[str, list[str]] = {}
    for role, model in models.items():
        titles.setdefault(model, [] if role == "har" else [model]).append(roles[role])
    parts = [
        f"{abs(comparisons[m].gain_frac):.1%} {'below' if comparisons[m].gain_frac >= 0 else 'above'}"
        f" {', '.join(words)} (p = {comparisons[m].p:.2g})"
        for m, words in titles.items()
    ]
    n_cutoffs = comparisons[ranked[0]].n_cutoffs
    return Gains(text=f"over {n_cutoffs} cutoffs the ensemble's mean loss is " + ", ".join(parts), **gains)


def compute_gains_by_series(
    ours: np.ndarray, theirs: np.ndarray, series_ids: tuple[str, ...], overlap: int
) -> dict[str, Comparison]:
    """As `compare_models`, of losses (k, S, H) compared with one model's, by series."""
    out: dict[str, Comparison] = {}
    for i, name in enumerate(series_ids):
        out |= compare_models(ours[:, [i]], {name: theirs[:, [i]]}, overlap)
    return out


def compute_correlation(models: tuple[str, ...], error: np.ndarray) -> dict[str, tuple[float | None, ...]]:
    """Pearson correlations of the members' errors (M, k, S, H) in the space of z.

    A row for each by name, columns in the order of the names. None where one does not vary, or
    fewer than two errors are known.
    """
    order = np.argsort(models)
    flat = error[order].reshape(len(error), -1)
    flat = flat[:, np.isfinite(flat).all(axis=0)]
    centred = flat - flat.mean(axis=1, keepdims=True) if flat.shape[1] else flat
    spread = np.sqrt(np.square(centred).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = np.clip((centred @ centred.T) / np.outer(spread, spread), -1, 1)
    return {
        models[m]: tuple(float(r) if np.isfinite(r) else None for r in row)
        for m, row in zip(order, correlations, strict=True)
    }


def compute_marginal_contributions(losses: Mapping[str, float]) -> dict[str, float]:
    """By member, how much higher the loss is without it.

    losses: by the member that is left out; the loss with all has the key "".
    Values are shares of the loss with all, below 0 where the member harms. Empty where nothing is
    known.
    """
    full_loss = losses[""]
    return {
        m: loss / full_loss - 1 for m, loss in losses.items() if m and full_loss > 0 and math.isfinite(loss)
    }


def build_combiner_rows(
    choice: CombinerChoice, names: tuple[str, ...], obstacles: Mapping[str, str]
) -> tuple[CombinerResult, ...]:
    """One row for each combiner, the lowest loss on the selection slice first."""
    losses = choice.losses if choice.n else {}
    best = losses.get(choice.best_member, 0.0)
    return tuple(
        CombinerResult(
            combiner=name,
            loss=losses.get(name),
            below_best_member_frac=1 - losses[name] / best if name in losses and best > 0 else None,
            p_lead_is_luck=choice.p.get(name),
            chosen=name == choice.combiner,
            not_servable=obstacles.get(name),
        )
        for name in sorted(names, key=lambda n: (losses.get(n, math.inf), names.index(n)))
    )
