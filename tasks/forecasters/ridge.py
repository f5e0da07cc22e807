"""Ridge regression, pooled over all series, direct: one equation a step, solved in closed form, the penalty chosen inside the window."""

from typing import Annotated

import numpy as np
from pydantic import Field

from tasks.core.about import Strict
from tasks.forecasters.arithmetic import Value
from tasks.forecasters.formula import Formula
from tasks.forecasters.linear import Moments, moments, solve, squared_error
from tasks.forecasters.preamble import Base, Preamble, dispensable_columns

PENALTIES = tuple(10.0**k for k in range(-5, 1))  # as a share of the rows, on standardised inputs
HELD_FRAC = 0.2  # the window's newest rows, on which the penalty is chosen


class RidgeParams(Strict):
    """penalty: share of the rows added to each squared coefficient; None: chosen on the newest fifth of the window. base: what is corrected."""

    penalty: Annotated[float, Field(ge=0)] | None = None
    base: Base = "auto"


class Ridge(Formula):
    """z_hat = base + scale * (a_s + b_s . inputs)."""

    Params = RidgeParams
    releases_gil = True

    @property
    def dispensable(self) -> tuple[str, ...]:
        """All that the preamble fills."""
        return dispensable_columns(self.schema)

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Closed form; rows come in order of time, so that the held ones are the newest."""
        preamble = self._preamble()
        preamble.learn(x)
        base = preamble.choose_base(x, z, self.params.base)
        target, inputs = preamble.target(x, z, preamble.base(x, base)), preamble.see(x).inputs
        split = int(len(x) * (1 - HELD_FRAC))
        older, newer = moments(inputs[:split], target[:split]), moments(inputs[split:], target[split:])
        penalty = self.params.penalty if self.params.penalty is not None else _best_penalty(older, newer)
        self.learned.update(base=np.array(base), coefficients=solve(older + newer, penalty).astype(np.float32))

    def formula(self, x: Value) -> Value:
        """See the class."""
        preamble, coefficients = self._preamble(), self.learned["coefficients"]
        seen = preamble.see(x)
        return preamble.base(x, str(self.learned["base"])) + (seen.inputs @ coefficients[:, 1:].T + coefficients[:, 0]) * seen.scale

    def _preamble(self) -> Preamble:
        return Preamble(self.schema, self.learned)


def _best_penalty(older: Moments, newer: Moments) -> float:
    """The penalty whose fit on the older rows errs least on the newer; the largest when there are fewer older rows than inputs."""
    if older.n.max() <= older.xx.shape[1]:
        return PENALTIES[-1]
    return min(PENALTIES, key=lambda penalty: squared_error(newer, solve(older, penalty)))
