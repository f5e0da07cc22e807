"""Parameters of the stage `package`."""

from typing import Annotated

from pydantic import Field

from tasks.core.strict import Strict


class PackageParams(Strict):
    """Rows of a release.

    rows_steps: at least this many steps of each series are in the release, so that it can forecast
    before any table is published.
    """

    rows_steps: Annotated[int, Field(ge=1)] = 1500
