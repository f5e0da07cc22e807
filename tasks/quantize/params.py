"""Parameters of the stage `quantize`."""

from typing import Annotated

from pydantic import Field

from tasks.core.strict import Strict


class QuantizeParams(Strict):
    """max_error_frac: by how much INT8 may worsen a net's mean primary loss over the gate's
    rows; 0.01 is one percent.
    """

    max_error_frac: Annotated[float, Field(ge=0)]
