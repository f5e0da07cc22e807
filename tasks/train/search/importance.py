"""What the objectives of a search depended on: the share of their variance over the trials that
each parameter explains alone.

By functional analysis of variance on a random forest (Hutter, Hoos and Leyton-Brown 2014,
https://proceedings.mlr.press/v32/hutter14.html), as Optuna has it. Optuna's own first choice,
PED-ANOVA, asks the best tenth of the trials alone, which of 50 are 5: on a function whose answer is
known it ranked no better at 50 trials and much worse below 30.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LEAST_TRIALS = 20  # that came to an end and drew the parameter; with fewer the forest ranks noise
_MOST_TRIALS = 300  # the first, drawn most evenly, take 2 s; a thousand would take 17


class ParamImportance(NamedTuple):
    """Of one parameter: how many complete trials drew it, and of each objective the share that it
    explains among them; none where they are too few.

    The rest to 1 lies in the others and in what they do together.
    """

    param: str
    n_trials: int
    shares: dict[str, float]

    def row(self) -> dict[str, Any]:
        """As in search.json."""
        why = {} if self.shares else {"why": f"{self.n_trials} complete trials drew it, {LEAST_TRIALS} must"}
        return {"param": self.param, "n_trials": self.n_trials, **self.shares, **why}


def compute_importances(
    complete: Sequence[Any], names: Sequence[str], objectives: Mapping[str, int], seed: int
) -> list[ParamImportance]:
    """Of each of *names*, what most of the error depends on first. complete: Optuna's trials.
    objectives: where each, `error` among them, stands among a trial's values.
    """
    known: dict[tuple[int, ...], dict[str, dict[str, float]]] = {}
    found = []
    for name in names:
        all_that_drew = [t for t in complete if name in t.params]
        drew = all_that_drew[:_MOST_TRIALS]
        place = tuple(t.number for t in drew)
        if len(drew) >= LEAST_TRIALS and place not in known:
            known[place] = _compute_shares(
                drew, [n for n in names if all(n in t.params for t in drew)], objectives, seed
            )
        found.append(ParamImportance(name, len(all_that_drew), known[place][name] if place in known else {}))
    return sorted(found, key=lambda one: -one.shares.get("error", -1.0))


def _compute_shares(
    trials: Sequence[Any], params: list[str], objectives: Mapping[str, int], seed: int
) -> dict[str, dict[str, float]]:
    """For each of *params*, which all *trials* drew, and each objective."""
    import optuna

    study = optuna.create_study(directions=["minimize"] * len(trials[0].values))
    study.add_trials(trials)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    of: dict[str, dict[str, float]] = {name: {} for name in params}
    for objective, place in objectives.items():

        def value(trial: Any, place: int = place) -> float:
            return float(trial.values[place])

        varies = len({value(t) for t in trials}) > 1  # a forest cannot share out nothing
        shares = evaluator.evaluate(study, params=params, target=value) if varies else {}
        for name in params:
            of[name][objective] = float(shares.get(name, 0.0))
    return of
