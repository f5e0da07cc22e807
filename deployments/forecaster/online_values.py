"""What this code answers to requests, and the features behind each answer, without a server.

`python -m deployments.forecaster.online_values REQUESTS ANSWERS`, run in a Bento's folder `src`,
loads the release that is embedded there as the service does, and answers the bodies in REQUESTS.
The stage `package` compares the numbers with those of training.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from deployments.forecaster.loaded import LoadedRelease
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import ForecastRequest, parse_request
from deployments.forecaster.response import build_response, compute_forecasts
from deployments.forecaster.source import ReleaseSource
from tasks.core.errors import ReleaseError
from tasks.release.predict import make_forecasts


class OnlineAnswer(TypedDict, total=False):
    """What is compared of an answer.

    series: as in HTTP. features: by series, null where unknown.
    problem: why there is no answer.
    """

    series: object
    features: dict[str, list[float | None]]
    problem: str


def main(requests: Path, answers: Path) -> None:
    """Answer the JSON list of bodies in *requests* into *answers*, in their order.

    Raises ReleaseError when the release does not load.
    """
    source = ReleaseSource()
    source.load_initial()
    if (loaded := source.loaded) is None:
        raise ReleaseError(f"The packaged service does not load its release: {source.fault}")
    bodies = json.loads(requests.read_text())
    answers.write_text(json.dumps([_answer(loaded, json.dumps(body).encode()) for body in bodies]))


def _answer(loaded: LoadedRelease, body: bytes) -> OnlineAnswer:
    try:
        request = parse_request(body)
        response = build_response(loaded, request, datetime.now(UTC))
    except ProblemError as error:
        return {"problem": str(error)}
    return {"series": json.loads(response.content)["series"], "features": _list_features(loaded, request)}


def _list_features(loaded: LoadedRelease, request: ForecastRequest) -> dict[str, list[float | None]]:
    """The inputs of the members at the forecast's origin, by series; null where unknown."""
    computed = compute_forecasts(loaded, request)
    # a feature may read other series
    rows = loaded.rows if request.history is None else computed.rows
    made = make_forecasts(loaded.release, rows, [computed.as_of])
    assert made is not None, "there is a forecast"
    x = dict(zip(made.members.series_ids, made.members.x[-1].tolist(), strict=True))
    return {name: [None if v != v else v for v in x[name]] for name in request.series}  # noqa: PLR0124  (NaN)


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except ReleaseError as error:
        sys.exit(" ".join(str(error).split()))
