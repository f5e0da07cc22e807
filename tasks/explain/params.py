"""How much is explained."""

from typing import Annotated

from pydantic import Field

from tasks.core.strict import Strict


class ExplainParams(Strict):
    """n_sample: rows from all over the history whose mean absolute parts are the importance of a
    feature. n_background: rows that stand for "feature unknown". max_evaluations: numbers (rows
    x steps) that the ensemble may be asked for; it decides how many orders of the features are
    # The first sentence is as long as it is
    tried, and when a single order is too much, how many rows are explained.
    """

    n_sample: Annotated[int, Field(ge=1)] = 60
    n_background: Annotated[int, Field(ge=1)] = 20
    # Some 4 s of one core with trees and a net in the ensemble
    max_evaluations: Annotated[int, Field(ge=1)] = 800_000
