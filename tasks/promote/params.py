"""Parameters of the gate."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from tasks.core.strict import Strict


class PromoteParams(Strict):
    """When a challenger passes the gate.

    gate_steps: steps at the end of the data that no fit, weight or conformal state of a challenger
    may see (read by train and ensemble).
    min_gate_rows: fewer paired cutoffs decide nothing.
    alpha: level of the one-sided test.
    min_gain_frac: the test is whether the challenger's loss is below the champion's by more than
    this fraction: two seeds of one recipe differ too.
    max_coverage_loss_frac: the challenger's coverage may be further from its level than the
    opponent's by this at most.
    max_latency_ratio: its forecast may take this many times as long as the opponent's; it is never
    too slow below half a second.
    approval: `required`: a winner becomes champion when a person has approved its bytes.
    approval_expires_s: of a request for it, and again of an approval that is not used.
    """

    gate_steps: Annotated[int, Field(ge=1)]
    min_gate_rows: Annotated[int, Field(ge=8)]  # the test has .41 n^(2/3) degrees of freedom, 1 at n = 8
    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    min_gain_frac: Annotated[float, Field(ge=0, lt=1)]
    max_coverage_loss_frac: Annotated[float, Field(ge=0, le=1)] = 0.1
    max_latency_ratio: Annotated[float, Field(gt=1)] = 5.0
    # YAML 1.1 reads `off` as false
    approval: Annotated[
        Literal["off", "required"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = "off"
    approval_expires_s: Annotated[float, Field(gt=0)] = 86_400.0

    @property
    def gate_key(self) -> dict[str, int | float]:
        """What a verdict follows from: how it is applied is not among it."""
        return self.model_dump(exclude={"approval", "approval_expires_s"})
