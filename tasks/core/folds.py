"""Cutoffs and folds: which origins are forecast, and when the model is fitted again.

Everything counts in positions on the dataset's grid. The origin of a cutoff is the last step whose
value is nominally known by it. A fold is a refit and the cutoffs it serves.
"""

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from tasks.core.errors import FoldError
from tasks.core.strict import Strict


class WalkForward(Strict):
    """How to walk.

    n_cutoffs: how many, counted back from the last usable origin.
    stride_steps: distance between them.
    refit_every_cutoffs: every k-th refits; in between the last fit predicts, with its state
      updated.
    min_train_steps: least history before the first cutoff.
    embargo_steps: distance on top of the purge.
    window_steps: sliding window; None expands.
    """

    n_cutoffs: Annotated[int, Field(ge=1)]
    stride_steps: Annotated[int, Field(ge=1)]
    refit_every_cutoffs: Annotated[int, Field(ge=1)]
    min_train_steps: Annotated[int, Field(ge=1)]
    embargo_steps: Annotated[int, Field(ge=0)] = 0
    window_steps: Annotated[int, Field(ge=1)] | None = None


class Fold(NamedTuple):
    """One refit and the cutoffs that it serves.

    fit_at: origin (grid position) as of which the model is fitted.
    origins: (m,) of the cutoffs, ascending, none before *fit_at*.
    """

    fit_at: int
    origins: np.ndarray


def build_folds(n_steps: int, last_origin: int, horizon_steps: int, walk: WalkForward) -> list[Fold]:
    """Folds over a grid of *n_steps*; cutoffs are counted back from the last one.

    last_origin: of the last cutoff, usually the last position before the gate's rows.
    Refits do not move: they are every `stride_steps` x `refit_every_cutoffs` steps from the first
    origin with enough history on. A longer history therefore adds fits and repeats the old ones
    (docs/decisions/refits-stand-still.md).
    Raises FoldError when the first cutoff would have fewer than `min_train_steps` steps of usable
    history.
    """
    origins = last_origin - walk.stride_steps * np.arange(walk.n_cutoffs - 1, -1, -1)
    needed = walk.min_train_steps + horizon_steps + walk.embargo_steps
    if origins[0] + 1 < needed:
        raise FoldError(
            f"{walk.n_cutoffs} cutoffs every {walk.stride_steps} steps need"
            f" {needed + (walk.n_cutoffs - 1) * walk.stride_steps} steps of history, but there are"
            f" {last_origin + 1} of {n_steps} before the gate's rows."
            f" {_suggest_way_out(last_origin + 1, horizon_steps, walk)}"
        )
    fit_at = origins - (origins - (needed - 1)) % (walk.stride_steps * walk.refit_every_cutoffs)
    return [Fold(int(origin), origins[fit_at == origin]) for origin in np.unique(fit_at)]


def _suggest_way_out(n_known: int, horizon_steps: int, walk: WalkForward) -> str:
    """Values that fit into *n_known* steps, the one that changes least first."""
    needed = walk.min_train_steps + horizon_steps + walk.embargo_steps
    n_cutoffs = (n_known - needed) // walk.stride_steps + 1
    if n_cutoffs > 0:
        return f"Set `train.n_cutoffs` to at most {n_cutoffs}, or give a longer history."
    lacking = needed - n_known  # even for one cutoff
    one_cutoff = "" if walk.n_cutoffs == 1 else " and `train.n_cutoffs` to 1"
    # A model that learns a horizon from less history than two of them learns nothing
    if walk.min_train_steps - lacking >= max(2 * horizon_steps, 1):
        return f"Set `train.min_train_steps` to at most {walk.min_train_steps - lacking}{one_cutoff}."
    if horizon_steps > lacking:
        return f"Set `about.horizon_steps` to at most {horizon_steps - lacking}{one_cutoff}."
    return f"Give a history of at least {lacking} steps more: no shorter horizon fits."
