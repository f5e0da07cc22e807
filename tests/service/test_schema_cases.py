"""Requests that schemathesis makes of the OpenAPI document, right and wrong ones: no undocumented
answer, no 5xx, and nothing wrong is accepted."""

from collections import Counter

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from deployments.forecaster.access import SCOPE_OF

CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
BATCH = "POST /api/v1/predict/batch"  # a wrong item has its problem in its place
# Answered by 503 without a contract or a job loop, by 409 without a rollout: as they document
NOT_HERE = {f"{method} {path}" for (method, path), scope in SCOPE_OF.items() if scope == "operate"} | {
    f"POST /api/v1/{path}" for path in ("observations", "jobs", "forecast/{model}", "ml/automl")
}


@pytest.fixture(scope="module")
def operations(server):
    document = server.client.get("/openapi.json").json()
    return [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]


def ask_all(server, operations, n_cases):
    """Send some *n_cases* requests, half of those with a body wrong ones; answers by status."""
    statuses = Counter()
    weights = {op.label: 8 if op.body else 2 if op.path_parameters else 0 for op in operations}
    n_each = n_cases / sum(weights.values())
    address, session = str(server.client.base_url), requests.Session()
    session.headers["content-type"] = "application/json"
    prediction = server.predict(series_id="north").json()["prediction_id"]
    for operation in operations:
        for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:
            is_right = mode is GenerationMode.POSITIVE
            usual = all_checks = CHECKS[1:] if operation.label in NOT_HERE else CHECKS
            if not is_right and operation.label != BATCH:
                all_checks = [*all_checks, checks.negative_data_rejection]
            n_examples = max(1, round(n_each * weights[operation.label] / (2 if operation.body else 1)))

            @settings(
                max_examples=n_examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(generation_mode=mode), st.booleans())
            def ask(case, is_known):
                is_known = is_known and is_right  # noqa: B023  (called here)
                if is_known and case.path_parameters:
                    case.path_parameters.update(dict.fromkeys(case.path_parameters, prediction))
                if is_known and isinstance(case.body, dict) and "series_id" in case.body:
                    case.body["series_id"] = "north"
                reply = case.call(base_url=address, session=session)
                statuses[reply.status_code] += 1
                # 408, 413 and 421 are refusals, too, which schemathesis does not know
                passed = usual if reply.status_code >= 400 else all_checks  # noqa: B023
                case.validate_response(reply, checks=passed)

            ask()
    return statuses


def check_cases(server, operations, n_cases):
    statuses = ask_all(server, operations, n_cases)
    assert sum(statuses.values()) >= 0.9 * n_cases, statuses
    assert min(statuses[200], statuses[404], statuses[422]) > 0.02 * n_cases, statuses
    assert server.client.get("/api/v1/health/live").status_code == 200
    print(f"{sum(statuses.values())} requests: {dict(statuses)}")


def test_whatever_is_sent_the_answer_is_documented(server, operations):
    check_cases(server, operations, 2_000)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_the_same_of_twenty_thousand_requests(server, operations):
    check_cases(server, operations, 20_000)
