"""The interface of a combiner.

It combines the members' forecasts along the walk, by what is known of their errors at each cutoff.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tasks.core.schema import encode_series_id
from tasks.ensemble.align import AlignedForecasts
from tasks.ensemble.known import KnownErrors, MemberErrors
from tasks.ensemble.params import EnsembleParams
from tasks.release.combine import Combination, Ranks, Weights, apply_combination
from tasks.release.recent import compute_learned_losses, compute_recent_losses


@dataclass(frozen=True)
class CombinerContext:
    """The inputs of all combiners.

    absolute: members are pruned by mean absolute instead of mean squared scaled error, as the
      primary score requires.
    """

    aligned: AlignedForecasts
    errors: MemberErrors
    params: EnsembleParams
    absolute: bool

    def prune_members(self, known: KnownErrors, members: Sequence[int]) -> list[int]:
        """Those of *members* that are not pruned; all of them while nothing is known."""
        losses = (known.absolute if self.absolute else np.diag(known.pooled)) / max(known.n, 1)
        best = min(losses[m] for m in members)
        return [m for m in members if losses[m] <= best * (1 + self.params.prune_above_frac)]

    @cached_property
    def recent_losses(self) -> np.ndarray:
        """(K, M, S) recent losses of each member, NaN where nothing is known.

        Cutoffs off the stride are not used.
        """
        aligned = self.aligned
        n = len(aligned.origins)
        later = np.arange(1, n + 1)[:, None, None]
        learned_k = np.where(
            np.isfinite(aligned.z) & aligned.learns[:, None, None], np.maximum(aligned.known_k, later), n
        )
        learned = compute_learned_losses(
            aligned.z_hat,
            aligned.z,
            aligned.scale,
            learned_k,
            0,
            n,
            absolute=self.absolute,
            kind=aligned.kind,
        )
        return compute_recent_losses(learned, aligned.learns, self.params.recent_cutoffs)

    def list_names(self, members: Sequence[int]) -> tuple[str, ...]:
        """Names of these members."""
        return tuple(self.aligned.models[m] for m in members)


class Combiner(ABC):
    """One way to combine. name: as in reports."""

    name: str

    def find_obstacle(self, context: CombinerContext) -> str | None:
        """Why no release can compute it, however good it is; None when one can."""
        del context  # used by combiners whose answer depends on it
        return None

    @abstractmethod
    def run(self, context: CombinerContext, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """Combine *members* along the timeline: (K, S, H).

        refits: indices of cutoffs at which the combiner is fitted, the first is 0. Each cutoff uses
          the last fit.
        """


class FittedCombiner(Combiner):
    """A combiner whose fit is a combination that a release can hold."""

    @abstractmethod
    def fit(self, context: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """The combination of *members* as of the cutoff with index *k*.

        Fitted on forecasts whose outcome was known by then.
        """

    def run(self, context: CombinerContext, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """See Combiner."""
        aligned = context.aligned
        out = np.empty(aligned.z_hat.shape[1:])
        for k, end in zip(refits, [*refits[1:], len(out)], strict=True):
            combination = self.fit(context, k, members)
            z_hats = aligned.z_hat[[aligned.models.index(m) for m in combination.members], k:end]
            rows = z_hats.transpose(1, 2, 0, 3).reshape(-1, len(z_hats), z_hats.shape[3])
            group = np.zeros(len(rows), dtype=np.int64)
            if isinstance(combination, Weights) and combination.regime:
                group = context.errors.regime[k:end].ravel()
            elif isinstance(combination, Weights) and combination.series:
                index_of = {key: i for i, key in enumerate(combination.series)}
                group = np.tile([index_of[encode_series_id(s)] for s in aligned.panel.series_ids], end - k)
            out[k:end] = apply_combination(combination, rows, group).reshape(out[k:end].shape)
        return out


def compute_shares(combination: Combination, models: Sequence[str]) -> np.ndarray:
    """(M,) share of each model; the sum is 1.

    It is the mean of the model's weights over groups and steps, of their absolute values where
    weights may be negative. For ranks all shares are equal.
    """
    shares = np.zeros(len(models))
    sizes = (
        np.ones(len(combination.members))
        if isinstance(combination, Ranks)
        else np.abs(np.asarray(combination.table)).mean(axis=(0, 2))
    )
    shares[[list(models).index(name) for name in combination.members]] = sizes / sizes.sum()
    return shares
