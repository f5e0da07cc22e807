"""What the next retraining does differently, by what the last ones brought."""

from collections.abc import Sequence
from typing import NamedTuple

from tasks.core.reports.retrain import Recipe
from tasks.retrain.journal import Retraining

_WORSE = frozenset({"error", "coverage", "drift"})


class RecipeDecision(NamedTuple):
    """The recipe (see `RetrainDecision`), and why."""

    recipe: Recipe
    reason: str


def decide_recipe(
    triggers: Sequence[str],
    retrainings: Sequence[Retraining],
    digest: str,
    search_after: int,
    *,
    has_search: bool,
) -> RecipeDecision:
    """How a retraining by *triggers* trains: the first of these rules that applies.

    1. an interrupted one goes on as it began.
    2. after *search_after* in vain, one after the other, and with a model that has a `search`:
       search, since neither new rows nor another window has helped.
    3. the forecasts have become worse: the data may have changed, so each model is also trained on
       the newer half alone, and the better window serves.
    4. otherwise as the champion *digest* was trained.
    """
    if "interrupted" in triggers:
        return RecipeDecision(retrainings[-1].recipe, "as it began")
    n_vain = count_in_vain(retrainings)
    if has_search and n_vain >= search_after:
        return RecipeDecision("search", f"the last {n_vain} retrainings brought nothing better")
    if _WORSE & set(triggers):
        return RecipeDecision("window", "the forecasts have become worse, so the data may have changed")
    made = [r.recipe for r in retrainings if r.new_digest == digest and r.digest != digest]
    return RecipeDecision(made[-1] if made else "full", "no figure is against the champion's own settings")


def count_in_vain(retrainings: Sequence[Retraining]) -> int:
    """Retrainings in vain at the end of the journal.

    They ended without another champion, or with one that was worse than the former on what came
    after. Those that failed are left out: they show nothing about settings.
    """
    n = 0
    for retraining in reversed([r for r in retrainings if r.new_digest is not None]):
        is_worse = retraining.outcome is not None and retraining.outcome.gain_frac < 0
        if retraining.new_digest != retraining.digest and not is_worse:
            break
        n += 1
    return n
