"""Choosing columns inside a window: those whose shuffling harms forecasts of its newest rows.

The fit that is judged learns from the rows before them.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from tasks.core.errors import ForecasterError
from tasks.core.reports.train import FoldColumns, SelectionReport
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters import Forecaster
from tasks.forecasters.parts.trees import count_rows_in_reach

_JUDGED_ROWS = (
    # Of the held ones, evenly: the mean error of 2,000 rows moves by a few percent, and columns
    # worth less than that are not distinguished
    2000
)


class SelectParams(Strict):
    """How columns are chosen.

    held_frac: newest share of the window on which columns are judged.
    repeats: how often each is shuffled.
    min_gain_frac: a column stays when shuffling it raises the error by more than this.
    """

    held_frac: Annotated[float, Field(gt=0, lt=1)] = 0.2
    repeats: Annotated[int, Field(ge=1)] = 3
    min_gain_frac: Annotated[float, Field(ge=0)] = 0.0


def find_ignored_columns(
    build: Callable[[], Forecaster], x: np.ndarray, z: np.ndarray, select: SelectParams
) -> tuple[str, ...]:
    """The columns that add nothing; none when without them the held rows are forecast worse.

    x, z: (n, F) in order of time and (n, H), both of one window.
    Permutation importance on rows that the fit has not seen: Breiman 2001,
    doi:10.1023/A:1010933404324. Columns with the same information share their importance, so both
    may go; the comparison at the end is there for that.
    Raises ForecasterError for a model without dispensable columns.
    """
    forecaster = build()
    dispensable = tuple(getattr(forecaster, "dispensable", ()))
    if not dispensable:
        raise ForecasterError(
            f"`select` chooses among columns that a model can do without, and {type(forecaster).__name__}"
            " names none. Remove `select` from it in params.yaml."
        )
    schema: FeatureSchema = forecaster.schema  # type: ignore[attr-defined]
    cut, reach = int(len(x) * (1 - select.held_frac)), count_rows_in_reach(z)
    if cut - reach < len(schema.columns):
        return ()  # too few rows to judge by
    older, held = (
        (x[: cut - reach], z[: cut - reach]),
        np.unique(np.linspace(cut, len(x) - 1, _JUDGED_ROWS).astype(np.int64)),
    )
    x_held, z_held = x[held], z[held]
    forecaster.fit(*older)
    whole = _score_mae(forecaster, schema, x_held, z_held)
    ignored = tuple(
        name
        for name in dispensable
        if not _score_shuffled(forecaster, schema, name, x_held, z_held, select)
        > whole * (1 + select.min_gain_frac)
    )
    less = build()
    apply_ignored_columns(less, ignored)
    return ignored if ignored and _score_mae(less.fit(*older), schema, x_held, z_held) <= whole else ()


def apply_ignored_columns(forecaster: Any, columns: tuple[str, ...]) -> None:
    """Have *forecaster*, which is not fitted yet, see *columns* as unknown."""
    forecaster.ignore(columns)


def build_selection_report(
    schema: FeatureSchema, dispensable: Sequence[str], seen: Sequence[tuple[datetime, set[str]]]
) -> SelectionReport:
    """Which of the *dispensable* columns each fold's fit sees, and how alike the choices are.

    seen: cutoff and names of each fit.
    """
    names = [name for name in schema.names if name in set(dispensable)]
    table = np.array([[name in chosen for name in names] for _, chosen in seen], dtype=np.float64).reshape(
        len(seen), len(names)
    )
    return SelectionReport(
        folds=tuple(
            FoldColumns(fit_at=cutoff, columns=tuple(name for name in names if name in chosen))
            for cutoff, chosen in seen
        ),
        kept_frac=dict(zip(names, table.mean(axis=0).tolist(), strict=True)),
        stability=compute_stability(table),
    )


def compute_stability(table: np.ndarray) -> float | None:
    """How alike M choices among d columns are: 1 is always the same, 0 what chance gives.

    table: (M, d) of 0 and 1.
    None for one choice, or of all or nothing.
    1 - mean over columns of M/(M-1) p(1-p) / ((k/d)(1 - k/d)), p the share of choices that have the
    column, k their mean size.
    Source: Nogueira, Sechidis & Brown 2018, JMLR 18(174), definition 4.
    """
    n_choices, n_columns = table.shape
    if n_choices < 2:
        return None
    share = table.mean(axis=0)
    size = float(table.sum(axis=1).mean()) / n_columns
    if not 0 < size < 1:
        return None
    return float(1 - (n_choices / (n_choices - 1) * share * (1 - share)).mean() / (size * (1 - size)))


def _score_shuffled(
    forecaster: Forecaster,
    schema: FeatureSchema,
    name: str,
    x: np.ndarray,
    z: np.ndarray,
    select: SelectParams,
) -> float:
    """Mean error with the column shuffled, by the same orders for every column."""
    rng, index, errors = np.random.default_rng(0), schema.index(name), []
    for _ in range(select.repeats):
        shuffled = x.copy()
        shuffled[:, index] = x[rng.permutation(len(x)), index]
        errors.append(_score_mae(forecaster, schema, shuffled, z))
    return float(np.mean(errors))


def _score_mae(forecaster: Forecaster, schema: FeatureSchema, x: np.ndarray, z: np.ndarray) -> float:
    """Mean absolute error of z in units of the scale column, over what is known."""
    return float(np.nanmean(np.abs(forecaster.predict(x) - z) / schema.get_scales(x)[:, None]))
