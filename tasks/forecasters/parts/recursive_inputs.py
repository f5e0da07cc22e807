"""Feature rows some steps later, with forecasts as values, where that is exact.

For models that forecast one step and repeat it.
"""

from collections.abc import Sequence

from tasks.core.errors import ForecasterError
from tasks.core.schema import SERIES_KEY, FeatureSchema
from tasks.forecasters.graph.graph_ops import Value, fill_nan, join_columns, take

_LAG = "z_lag_"


class RecursiveInputs:
    """Advances rows by forecasts; *columns* are those that can be advanced exactly.

    The last value, lags of z whose smaller lags are all in the table, the season and the series'
    keys. Means, spreads, calendars and covariates cannot, so a model that repeats a step must read
    *columns* only.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        lags = {
            int(name.removeprefix(_LAG))
            for name in schema.names
            if name.removeprefix(_LAG).isdigit() and name.startswith(_LAG)
        }
        self.lags = {k for k in lags if all(k - s in lags for s in range(1, min(k, schema.horizon_steps)))}
        self.columns = (
            schema.last,
            *(f"{_LAG}{k}" for k in sorted(self.lags)),
            *(name for name in SERIES_KEY if name in schema.names),
        )

    def build_next_inputs(self, x: Value, ahead: Sequence[Value]) -> Value:
        """x (n, F), so many steps later as *ahead* has forecasts (n, 1); other columns as in x."""
        steps, n_columns = len(ahead), len(self.schema.columns)
        source = {self.schema.last: -1}
        source |= {f"{_LAG}{k}": k - steps for k in self.lags}
        return (
            take(
                join_columns([x, *ahead]),
                [self._find_position(name, source.get(name), steps, n_columns) for name in self.schema.names],
            )
            if ahead
            else x
        )

    def season(self, x: Value, ahead: Sequence[Value], last: Value) -> Value:
        """(n, 1): z one season before the step after *ahead*.

        last: its value where that is unknown, or without a season.
        """
        if not self.schema.seasonal:
            return last
        step = len(ahead)
        return (
            ahead[step - self.schema.season_steps]
            if step >= self.schema.season_steps
            else fill_nan(take(x, [self.schema.index(self.schema.seasonal[step])]), last)
        )

    def _find_position(self, name: str, back: int | None, steps: int, n_columns: int) -> int:
        """Position of a column in x joined with the forecasts.

        back: steps before the origin; negative: a forecast of a step after it; None: the column
            itself.
        """
        if name == self.schema.last:
            return n_columns + steps - 1
        if back is None:
            return self.schema.index(name)
        if back < 0:
            return n_columns - 1 - back
        return self.schema.index(self.schema.last if back == 0 else f"{_LAG}{back}")


def check_movable(names: Sequence[str], schema: FeatureSchema, model: str) -> None:
    """Raises ForecasterError when one of the columns *names* cannot be advanced."""
    if fixed := [name for name in names if name not in RecursiveInputs(schema).columns]:
        raise ForecasterError(
            f"{model} repeats its one step, and a forecast cannot advance {fixed}. Leave them out, or"
            " set `strategy: direct`."
        )
