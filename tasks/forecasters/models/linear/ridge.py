"""Ridge regression, pooled over all series or over groups of alike rows, direct: one equation a
step, in closed form, the penalty chosen inside the window.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from tasks.core.blocks import split_blocks
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value, take
from tasks.forecasters.parts.groups import GroupBy, RowGroups
from tasks.forecasters.parts.linear import (
    NormalEquations,
    build_normal_equations,
    compute_squared_error,
    fit_coefficients,
    fit_reweighted,
)
from tasks.forecasters.parts.normalizer import (
    Base,
    Normalizer,
    check_columns,
    has_level_input,
    list_dispensable_columns,
)
from tasks.forecasters.parts.row_weight import RowWeight

PENALTIES = tuple(10.0**k for k in range(-5, 1))  # as a share of the rows, on standardised inputs
_BLOCK_ROWS = 4096
_LEAST_ROWS = 2  # of a group, for each coefficient
START_ROWS = 16_384  # least squares over about so many is where reweighting starts
HELD_FRAC = 0.2  # the window's newest rows, on which the penalty is chosen


class RidgeParams(Strict):
    """penalty: share of the rows added to each squared coefficient; None: chosen on the newest
    fifth of the window. base: what is corrected.

    loss: of the residuals in units of the scale. weight: what a row counts. groups: rows that get
    coefficients of their own; one with fewer than two rows for each coefficient takes those of all.
    max_rows: origins in a fit, drawn evenly over the window when there are more. columns: the
    features that are seen; None: every one that measures. whole_rows: learn only where each level
    that is seen is known, if there are enough such rows. sees_level: whether the last value itself
    is an input too; None: without `features.scale`, unless `base` is `last`. With `base: last` on
    lags alone this is NLinear in closed form (Zeng et al. 2023, arXiv:2205.13504): the last value
    subtracted, a linear map, the last value added back.
    """

    penalty: Annotated[float, Field(ge=0)] | None = None
    base: Base = "auto"
    loss: Literal["squared", "absolute"] = "squared"
    weight: RowWeight | None = None
    groups: tuple[GroupBy, ...] = ()
    max_rows: Annotated[int, Field(ge=100)] | None = None
    columns: tuple[str, ...] | None = None
    whole_rows: bool = False
    sees_level: bool | None = None


class Ridge(Formula):
    """z_hat = base + scale * (a_gs + b_gs . inputs), g the row's group."""

    Params = RidgeParams
    releases_gil = True

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        check_columns(self.params.columns, schema, self.name)
        self._build_groups()  # says at once which column is missing

    @property
    def dispensable(self) -> tuple[str, ...]:
        """What the preamble fills and neither weight nor groups name."""
        weight, by = self.params.weight, self.params.groups
        named = {name for one in by for name in (one.column, one.over)} | (
            {None} if weight is None else {weight.column}
        )
        return tuple(name for name in list_dispensable_columns(self.schema) if name not in named)

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Closed form; rows come in order of time, so that the held ones are the newest."""
        preamble, rows = self._build_normalizer(), np.arange(len(x))
        if self.params.whole_rows:
            whole = np.concatenate(
                [
                    np.isfinite(take(x[part], preamble.levels)).all(axis=1)
                    for part in split_blocks(len(x), _BLOCK_ROWS)
                ]
            )
            if whole.sum() >= _LEAST_ROWS * (preamble.n_inputs + 1):
                rows = np.flatnonzero(whole)
        # Before a draw, which would blur the lengths of the series
        group = self._build_groups().learn(x, rows)
        if self.params.max_rows is not None and len(rows) > self.params.max_rows:
            drawn = np.sort(
                np.random.default_rng(self.seed).choice(len(rows), self.params.max_rows, replace=False)
            )
            rows, group = rows[drawn], group[drawn]
        if len(rows) < len(x):  # one copy for both
            x, z = x[rows], z[rows]
        preamble.learn(x)
        base = preamble.decide_base(x, z, self.params.base)
        target, inputs = preamble.target(x, z, preamble.base(x, base)), preamble.inputs(x)
        is_plain = self.params.loss == "squared" and self.params.weight is None
        if self.params.penalty is None:
            split = int(len(x) * (1 - HELD_FRAC))
            older, newer = (
                build_normal_equations(inputs[:split], target[:split]),
                build_normal_equations(inputs[split:], target[split:]),
            )
            penalty, pooled = _find_best_penalty(older, newer), older + newer
        else:
            some = slice(None, None, 1 if is_plain else max(1, len(x) // START_ROWS))
            penalty, pooled = self.params.penalty, build_normal_equations(inputs[some], target[some])
        of_all = fit_coefficients(pooled, penalty)
        coefficients = self._fit_group_coefficients(x, inputs, target, group, of_all, penalty)
        self.learned.update(base=np.array(base), coefficients=coefficients.astype(np.float32))

    def formula(self, x: Value) -> Value:
        """See the class."""
        preamble, coefficients = self._build_normalizer(), self.learned["coefficients"]
        seen = preamble.transform(x)
        parts = [seen.inputs @ own[:, 1:].T + own[:, 0] for own in coefficients]
        if self.params.groups:
            shares = self._build_groups().shares(x)
            parts = [part * take(shares, [g]) for g, part in enumerate(parts)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return preamble.base(x, str(self.learned["base"])) + total * seen.scale

    def _fit_group_coefficients(
        self,
        x: np.ndarray,
        inputs: np.ndarray,
        target: np.ndarray,
        group: np.ndarray,
        of_all: np.ndarray,
        penalty: float,
    ) -> np.ndarray:
        """(G, H, K+1): *of_all* reweighted as the loss and the weight ask, then for each group
        its own.
        """
        params, groups = self.params, self._build_groups()
        weight = (
            np.ones(len(x), dtype=np.float32)
            if params.weight is None
            else params.weight.of(self.schema, self._build_normalizer(), x)
        )
        known = np.isfinite(target).any(axis=1)
        own = (
            np.bincount(group[known], minlength=groups.n) >= _LEAST_ROWS * of_all.shape[1]
            if groups.by
            else np.zeros(1, dtype=bool)
        )

        def refit(rows: np.ndarray) -> np.ndarray:
            return fit_reweighted(
                inputs,
                target,
                weight,
                np.flatnonzero(rows),
                penalty,
                of_all,
                absolute=params.loss == "absolute",
            )

        is_plain = params.loss == "squared" and params.weight is None
        shared = of_all if is_plain or own.all() or not known.any() else refit(known)
        return np.stack([refit(known & (group == g)) if own[g] else shared for g in range(groups.n)])

    def _build_groups(self) -> RowGroups:
        return RowGroups(self.schema, self.learned, self.params.groups, self.name)

    def _build_normalizer(self) -> Normalizer:
        sees_level = has_level_input(self.params.sees_level, self.params.base, self.schema)
        return Normalizer(self.schema, self.learned, self.params.columns, sees_level=sees_level)


def _find_best_penalty(older: NormalEquations, newer: NormalEquations) -> float:
    """The penalty whose fit on the older rows errs least on the newer; the largest when there
    are fewer older rows than inputs.
    """
    if older.n.max() <= older.xx.shape[1]:
        return PENALTIES[-1]
    return min(PENALTIES, key=lambda penalty: compute_squared_error(newer, fit_coefficients(older, penalty)))
