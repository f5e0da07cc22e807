"""The dataset's entry in the checkout that the service belongs to."""

from typing import TYPE_CHECKING

from deployments.forecaster.problems import ProblemError
from tasks.core.errors import TidemillError
from tasks.edges.settings import ROOT, read_settings

if TYPE_CHECKING:
    from tasks.edges.params import ParamsDocument


def read_dataset_document(dataset: str) -> "ParamsDocument":
    """params.yaml of the checkout (TIDEMILL_CHECKOUT) with *dataset* as the current one.

    Raises ProblemError 503 when it is not there or has no such entry, as in an image.
    """
    from tasks.edges.params import read_document

    try:
        return read_document(read_settings().checkout or ROOT).select_dataset(dataset)
    except (TidemillError, OSError) as error:
        rule = f"The entry of {dataset!r} is in the params.yaml of a checkout (TIDEMILL_CHECKOUT)."
        raise ProblemError(503, "dataset", str(error), rule, "Report it to the operator.") from error
