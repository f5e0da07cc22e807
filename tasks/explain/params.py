"""How much is explained."""

from typing import Annotated

from pydantic import Field

from tasks.core.strict import Strict


class ExplainParams(Strict):
    """Sizes of the explanation.

    n_sample: rows from the whole history; their mean absolute parts are a feature's importance.
    n_background: rows that give the values of an unknown feature.
    max_evaluations: numbers (rows x steps) that the ensemble may compute. It decides how many
    orders of the features are tried and, when a single order is too much, how many rows are
    explained.
    """

    n_sample: Annotated[int, Field(ge=1)] = 60
    n_background: Annotated[int, Field(ge=1)] = 20
    # Some 4 s of one core with trees and a net in the ensemble
    max_evaluations: Annotated[int, Field(ge=1)] = 800_000
