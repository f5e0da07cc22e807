"""Parameters of the stage `quantize`."""

from typing import Annotated

from pydantic import Field

from tasks.core.strict import Strict


class QuantizeParams(Strict):
    """Limits of INT8.

    max_error_frac: fraction by which INT8 may worsen a net's mean primary loss, over the gate's
    rows.
    """

    max_error_frac: Annotated[float, Field(ge=0)]
