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
        fitting = (last_origin + 1 - needed) // walk.stride_steps + 1
        way_out = (
            f"Set `train.n_cutoffs` to at most {fitting}, or `train.min_train_steps` lower."
            if fitting > 0
            else "Set `train.min_train_steps` lower."
        )
        raise FoldError(
            f"{walk.n_cutoffs} cutoffs every {walk.stride_steps} steps need"
            f" {needed + (walk.n_cutoffs - 1) * walk.stride_steps} steps of history, but there are"
            f" {last_origin + 1} of {n_steps} before the gate's rows. {way_out}"
        )
    fit_at = origins - (origins - (needed - 1)) % (walk.stride_steps * walk.refit_every_cutoffs)
    return [Fold(int(origin), origins[fit_at == origin]) for origin in np.unique(fit_at)]
