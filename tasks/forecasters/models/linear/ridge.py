"""Ridge regression in closed form, pooled over all series or over groups of similar rows.

Direct: one equation for each step; the penalty is chosen inside the window.
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

PENALTIES = tuple(10.0**k for k in range(-5, 1))  # as a fraction of the rows, on standardised inputs
_BLOCK_ROWS = 4096
_MIN_ROWS = 2  # of a group, for each coefficient
START_ROWS = 16_384  # reweighting starts from least squares over about so many
HOLDOUT_FRAC = 0.2  # the window's newest rows, on which the penalty is chosen


class RidgeParams(Strict):
    """The parameters of ridge.

    penalty: fraction of the rows that is added to each squared coefficient; None: chosen on the
        newest fifth of the window.
    base: the forecast that is corrected.
    loss: of the residuals in units of the scale.
    weight: of each row.
    groups: rows with separate coefficients; a group with fewer than two rows for each coefficient
        has those of all rows.
    max_rows: origins in a fit, drawn evenly over the window when there are more.
    columns: the features that are used; None: all except the series' keys.
    whole_rows: learn only from rows in which each used level is known, if there are enough.
    sees_level: whether the last value itself is an input too; None: without `features.scale`,
        unless `base` is `last`. With `base: last` on lags alone this is NLinear in closed form
        (Zeng et al. 2023, arXiv:2205.13504): the last value subtracted, a linear map, the last
        value added back.
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
        self._build_groups()  # raises early for a missing column

    @property
    def dispensable(self) -> tuple[str, ...]:
        """Columns that the normalizer fills and that neither weight nor groups name."""
        weight, by = self.params.weight, self.params.groups
        named = {name for one in by for name in (one.column, one.over)} | (
            {None} if weight is None else {weight.column}
        )
        return tuple(name for name in list_dispensable_columns(self.schema) if name not in named)

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Fit in closed form; rows are in order of time, so the held-out ones are the newest."""
        normalizer, rows = self._build_normalizer(), np.arange(len(x))
        if self.params.whole_rows:
            whole = np.concatenate(
                [
                    np.isfinite(take(x[part], normalizer.levels)).all(axis=1)
                    for part in split_blocks(len(x), _BLOCK_ROWS)
                ]
            )
            if whole.sum() >= _MIN_ROWS * (normalizer.n_inputs + 1):
                rows = np.flatnonzero(whole)
        # Before the draw, which would change the lengths of the series
        group = self._build_groups().learn(x, rows)
        if self.params.max_rows is not None and len(rows) > self.params.max_rows:
            drawn = np.sort(
                np.random.default_rng(self.seed).choice(len(rows), self.params.max_rows, replace=False)
            )
            rows, group = rows[drawn], group[drawn]
        if len(rows) < len(x):  # one copy for both
            x, z = x[rows], z[rows]
        normalizer.learn(x)
        base = normalizer.decide_base(x, z, self.params.base)
        target, inputs = normalizer.target(x, z, normalizer.base(x, base)), normalizer.inputs(x)
        is_plain = self.params.loss == "squared" and self.params.weight is None
        if self.params.penalty is None:
            split = int(len(x) * (1 - HOLDOUT_FRAC))
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
        normalizer, coefficients = self._build_normalizer(), self.learned["coefficients"]
        seen = normalizer.transform(x)
        parts = [seen.inputs @ of_group[:, 1:].T + of_group[:, 0] for of_group in coefficients]
        if self.params.groups:
            shares = self._build_groups().shares(x)
            parts = [part * take(shares, [g]) for g, part in enumerate(parts)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return normalizer.base(x, str(self.learned["base"])) + total * seen.scale

    def _fit_group_coefficients(
        self,
        x: np.ndarray,
        inputs: np.ndarray,
        target: np.ndarray,
        group: np.ndarray,
        of_all: np.ndarray,
        penalty: float,
    ) -> np.ndarray:
        """(G, H, K+1): for each group *of_all*, reweighted for the loss and the weight, or its own.

        of_all: (H, K+1), coefficients of least squares over all rows.
        """
        params, groups = self.params, self._build_groups()
        weight = (
            np.ones(len(x), dtype=np.float32)
            if params.weight is None
            else params.weight.compute(self.schema, self._build_normalizer(), x)
        )
        known = np.isfinite(target).any(axis=1)
        has_own = (
            np.bincount(group[known], minlength=groups.n) >= _MIN_ROWS * of_all.shape[1]
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
        shared = of_all if is_plain or has_own.all() or not known.any() else refit(known)
        return np.stack([refit(known & (group == g)) if has_own[g] else shared for g in range(groups.n)])

    def _build_groups(self) -> RowGroups:
        return RowGroups(self.schema, self.learned, self.params.groups, self.name)

    def _build_normalizer(self) -> Normalizer:
        sees_level = has_level_input(self.params.sees_level, self.params.base, self.schema)
        return Normalizer(self.schema, self.learned, self.params.columns, sees_level=sees_level)


def _find_best_penalty(older: NormalEquations, newer: NormalEquations) -> float:
    """The penalty with the least error on the newer rows, of fits on the older rows.

    The largest one when there are fewer older rows than inputs.
    """
    if older.n.max() <= older.xx.shape[1]:
        return PENALTIES[-1]
    return min(PENALTIES, key=lambda penalty: compute_squared_error(newer, fit_coefficients(older, penalty)))
