"""What the objectives of a search depended on: the share of variance that a parameter explains.

Functional analysis of variance on a random forest (Hutter, Hoos and Leyton-Brown 2014,
https://proceedings.mlr.press/v32/hutter14.html), as Optuna implements it. Optuna's default,
PED-ANOVA, uses only the best tenth of the trials, which is 5 of 50: on a function whose answer is
known it ranked no better at 50 trials and much worse below 30.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MIN_TRIALS = 20  # complete ones that drew the parameter; with fewer the forest ranks noise
_MAX_TRIALS = 300  # the first ones, drawn most evenly, take 2 s; a thousand would take 17


class ParamImportance(NamedTuple):
    """What one parameter explains alone.

    n_trials: complete ones that drew it.
    shares: objective -> share of its variance (0-1); empty if the trials are too few. The rest
    belongs to the other parameters and to interactions.
    """

    param: str
    n_trials: int
    shares: dict[str, float]

    def build_row(self) -> dict[str, Any]:
        """The row in search.json."""
        why = (
            {}
            if self.shares
            else {"why": f"{self.n_trials} complete trials drew it, {MIN_TRIALS} are needed"}
        )
        return {"param": self.param, "n_trials": self.n_trials, **self.shares, **why}


def compute_importances(
    complete: Sequence[Any], names: Sequence[str], objectives: Mapping[str, int], seed: int
) -> list[ParamImportance]:
    """The importance of each of *names*, the largest share of the error first.

    complete: Optuna's trials.
    objectives: name, `error` among them -> index in a trial's values.
    """
    shares_of_trials: dict[tuple[int, ...], dict[str, dict[str, float]]] = {}
    importances = []
    for name in names:
        trials = [t for t in complete if name in t.params]
        used = trials[:_MAX_TRIALS]
        key = tuple(t.number for t in used)
        if len(used) >= MIN_TRIALS and key not in shares_of_trials:
            always_drawn = [n for n in names if all(n in t.params for t in used)]
            shares_of_trials[key] = _compute_shares(used, always_drawn, objectives, seed)
        shares = shares_of_trials[key][name] if key in shares_of_trials else {}
        importances.append(ParamImportance(name, len(trials), shares))
    return sorted(importances, key=lambda importance: -importance.shares.get("error", -1.0))


def _compute_shares(
    trials: Sequence[Any], params: list[str], objectives: Mapping[str, int], seed: int
) -> dict[str, dict[str, float]]:
    """Parameter -> objective -> share, for *params*, which all *trials* drew."""
    import optuna

    study = optuna.create_study(directions=["minimize"] * len(trials[0].values))
    study.add_trials(trials)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    shares: dict[str, dict[str, float]] = {name: {} for name in params}
    for objective, index in objectives.items():

        def get_value(trial: Any, index: int = index) -> float:
            return float(trial.values[index])

        varies = len({get_value(t) for t in trials}) > 1  # the forest fails without variance
        explained = evaluator.evaluate(study, params=params, target=get_value) if varies else {}
        for name in params:
            shares[name][objective] = float(explained.get(name, 0.0))
    return shares
