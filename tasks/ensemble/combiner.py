"""What every combiner is: it stands on the members' forecasts and on what is known of their
errors, and combines along the walk.
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
    """What combiners work on. absolute: members are pruned by mean absolute instead of mean
    squared scaled error, as the primary score asks.
    """

    aligned: AlignedForecasts
    errors: MemberErrors
    params: EnsembleParams
    absolute: bool

    def kept(self, known: KnownErrors, members: Sequence[int]) -> list[int]:
        """Those of *members* that are not pruned; all of them while nothing is known."""
        losses = (known.absolute if self.absolute else np.diag(known.pooled)) / max(known.n, 1)
        best = min(losses[m] for m in members)
        return [m for m in members if losses[m] <= best * (1 + self.params.prune_above_frac)]

    @cached_property
    def recent(self) -> np.ndarray:
        """(K, M, S) recent losses of each member, NaN where nothing is known; those of cutoffs
        off the stride teach nothing.
        """
        aligned = self.aligned
        n = len(aligned.origins)
        later = np.arange(1, n + 1)[:, None, None]
        at = np.where(
            np.isfinite(aligned.z) & aligned.learns[:, None, None], np.maximum(aligned.known_k, later), n
        )
        learned = compute_learned_losses(
            aligned.z_hat, aligned.z, aligned.scale, at, 0, n, absolute=self.absolute, kind=aligned.kind
        )
        return compute_recent_losses(learned, aligned.learns, self.params.recent_cutoffs)

    def names(self, members: Sequence[int]) -> tuple[str, ...]:
        """Names of these members."""
        return tuple(self.aligned.models[m] for m in members)


class Combiner(ABC):
    """One way to combine. name: as in reports."""

    name: str

    def find_obstacle(self, ground: CombinerContext) -> str | None:  # noqa: ARG002  (for those that look)
        """Why no release can compute it, however good it is; None when one can."""
        return None

    @abstractmethod
    def run(self, ground: CombinerContext, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """Combinations (K, S, H) of *members* along the timeline, at each cutoff by the last fit
        of *refits*, the first of which is 0.
        """


class FittedCombiner(Combiner):
    """A combiner whose fit is a combination that a release can hold."""

    @abstractmethod
    def fit(self, ground: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """The combination of *members* as of the cutoff with index *k*, from forecasts whose
        outcome was known by then.
        """

    def run(self, ground: CombinerContext, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """See Combiner."""
        aligned = ground.aligned
        out = np.empty(aligned.z_hat.shape[1:])
        for k, until in zip(refits, [*refits[1:], len(out)], strict=True):
            how = self.fit(ground, k, members)
            said = aligned.z_hat[[aligned.models.index(m) for m in how.members], k:until]
            rows = said.transpose(1, 2, 0, 3).reshape(-1, len(said), said.shape[3])
            group = np.zeros(len(rows), dtype=np.int64)
            if isinstance(how, Weights) and how.regime:
                group = ground.errors.regime[k:until].ravel()
            elif isinstance(how, Weights) and how.series:
                place = {key: i for i, key in enumerate(how.series)}
                group = np.tile([place[encode_series_id(s)] for s in aligned.panel.series_ids], until - k)
            out[k:until] = apply_combination(how, rows, group).reshape(out[k:until].shape)
        return out


def compute_shares(how: Combination, models: Sequence[str]) -> np.ndarray:
    """(M,) share of each model, sum 1: the mean of its weights over groups and steps, by size
    where they have a sign; equal ones by rank.
    """
    out = np.zeros(len(models))
    size = (
        np.ones(len(how.members))
        if isinstance(how, Ranks)
        else np.abs(np.asarray(how.table)).mean(axis=(0, 2))
    )
    out[[list(models).index(name) for name in how.members]] = size / size.sum()
    return out
