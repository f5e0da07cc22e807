"""Parameters of the stage `package`."""

from typing import Annotated

from pydantic import Field

from tasks.core.strict import Strict


class PackageParams(Strict):
    """rows_steps: at least so many steps of each series travel with the release, so that it
    answers before any table is published.
    """

    rows_steps: Annotated[int, Field(ge=1)] = 1500
