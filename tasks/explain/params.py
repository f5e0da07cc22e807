"""How much is explained."""

from typing import Annotated

from pydantic import Field

from tasks.core.about import Strict


class ExplainParams(Strict):
    """n_sample: rows from all over the history whose mean absolute parts are the importance of a feature. n_background: rows that stand
    for "feature unknown". max_evaluations: numbers (rows x steps) that the ensemble may be asked for; it decides how many orders of the
    features are tried, and when a single order is too much, how many rows are explained.
    """  # noqa: D205  (the first sentence is as long as it is)

    n_sample: Annotated[int, Field(ge=1)] = 60
    n_background: Annotated[int, Field(ge=1)] = 20
    max_evaluations: Annotated[int, Field(ge=1)] = 800_000  # some 4 s of one core with trees and a net in the ensemble
