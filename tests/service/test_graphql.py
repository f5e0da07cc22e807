"""What GraphQL answers is what the other routes answer, to the same callers, within its limits."""

import pytest
from graphql import build_client_schema, get_introspection_query, parse
from servers import DATASET, at, crown, publish, serving
from small_release import small_rows

from deployments.forecaster import graphql_limits
from tasks.alerts.params import AlertParams
from tasks.alerts.sources import CollectedAlarms
from tasks.alerts.store import open_store, read_now
from tasks.core.reports.alerts import Alarm
from tasks.edges.api_keys import create_key

PREDICTIONS = """
query Page($first: Int, $after: String) {
  series(seriesId: "north") { predictions(first: $first, after: $after) { endCursor items { id tenant series {
    seriesId cutoff steps { step yHat quantiles { probability value } } } } } }
}
"""


@pytest.fixture(scope="module")
def asked(releases, tmp_path_factory):
    """ask(key, query, variables): a service with champions, alarms, and callers of two tenants."""
    home = tmp_path_factory.mktemp("graphql")
    publish(home, small_rows())
    for name in ("second", "first"):
        crown(home, releases / name)
    scopes = {
        "acme": ["predict", "read"],
        "other": ["predict", "read"],
        "reader": ["read"],
        "predictor": ["predict"],
    }
    alarm = {
        "name": "loss_high",
        "source": "monitor",
        "severity": "warning",
        "summary": "high",
        "runbook": "x",
    }
    with at(home):
        keys = {name: create_key(name, name, of, [DATASET]) for name, of in scopes.items()}
        with open_store() as store:
            alarms = [Alarm(**alarm, dataset=DATASET), Alarm(**alarm, dataset="elsewhere"), Alarm(**alarm)]
            store.update(CollectedAlarms(alarms, {"monitor"}, []), DATASET, AlertParams(), [], read_now())
    with serving(home, TIDEMILL_AUTH="on") as server:

        def ask(key, query, variables=None, path="graphql", **sent):
            body = sent or {"query": query, **({"variables": variables} if variables else {})}
            return server.client.post(f"/api/v1/{path}", json=body, headers={"X-API-Key": keys[key]})

        yield ask


def test_it_answers_what_the_other_routes_answer(asked):
    answer = asked("acme", None, path="predict", series_id=["north", "south"]).json()
    found = asked(
        "acme",
        """{ champion { version digest isChampion } models { version isKept } model(version: "1.0.0") { name }
        allSeries(first: 1) { endCursor items { seriesId knownAt } }
        series(seriesId: "unknown") { seriesId } alarms { name openedAt } }""",
    ).json()
    assert "errors" not in found, found
    data = found["data"]
    assert data["champion"] == {
        "version": answer["model"]["version"],
        "digest": answer["model"]["digest"],
        "isChampion": True,
    }
    assert [model["isKept"] for model in data["models"]] == [True, True]
    assert data["models"][0]["version"] == answer["model"]["version"]
    assert (data["model"]["name"], data["series"]) == ("second", None)
    (north,) = data["allSeries"]["items"]
    assert (north["seriesId"], data["allSeries"]["endCursor"]) == ("north", "north")
    assert north["knownAt"] == answer["series"][0]["as_of"]
    assert [alarm["name"] for alarm in data["alarms"]] == ["loss_high"] * 2


def test_predictions_come_in_pages_and_to_their_tenant_alone(asked):
    answers = [asked("other", None, path="predict", series_id="north").json() for _ in range(5)]
    asked("other", None, path="predict", series_id="south")
    found, after, n_pages = [], None, 0
    while after is not None or n_pages == 0:
        reply = asked("other", PREDICTIONS, {"first": 2, "after": after}).json()
        page, n_pages = reply["data"]["series"]["predictions"], n_pages + 1
        found, after = [*found, *page["items"]], page["endCursor"]
    assert n_pages == 3
    assert [item["id"] for item in found] == [answer["prediction_id"] for answer in reversed(answers)]
    assert {item["tenant"] for item in found} == {"other"}
    (series,), step = found[0]["series"], answers[-1]["series"][0]["steps"][0]
    assert series["steps"][0]["yHat"] == step["y_hat"]
    assert {q["probability"]: q["value"] for q in series["steps"][0]["quantiles"]} == step["quantiles"]
    one = f'{{ prediction(id: "{answers[0]["prediction_id"]}") {{ id modelVersion }} }}'
    assert asked("other", one).json()["data"]["prediction"]["id"] == answers[0]["prediction_id"]
    assert asked("acme", one).json() == {"data": {"prediction": None}}


def test_scopes_are_those_of_the_other_routes(asked):
    assert asked("predictor", "{ champion { version } }").status_code == 403
    refused = asked("reader", '{ champion { version } prediction(id: "x") { id } }').json()
    assert refused["data"]["champion"]
    assert "scope `predict`" in refused["errors"][0]["message"]
    schema = build_client_schema(asked("reader", get_introspection_query()).json()["data"])
    assert schema.mutation_type is None
    assert schema.query_type.fields.keys() == {
        *("champion", "models", "model", "allSeries", "series", "prediction", "alarms"),
    }


DEEP = '{ __type(name: "Query") { fields { type { ' + "ofType { " * 12 + "name" + " }" * 15 + " }"
TWICE = " ".join(
    f"fragment f{k} on Query {{ ...f{k - 1} a{k}: alarms {{ name }} ...f{k - 1} }}" for k in range(1, 12)
)
NESTED = "{ __schema { types { " + "fields { type { " * 4 + "name" + " } }" * 4 + " } } }"


BAD = {
    "no query": ("{", "Syntax Error"),
    "an unknown field": ("{ champoin { version } }", "Did you mean"),
    "a write": ("mutation { champion { version } }", "mutation"),
    "a wrong type": ("{ model(version: 1) { name } }", "String cannot represent"),
    "a large page": ("{ allSeries(first: 101) { endCursor } }", "1 to 100"),
    "no page": ("{ allSeries(first: 0) { endCursor } }", "1 to 100"),
    "deep": (DEEP, "has depth 16"),
    "introspection of introspection": (NESTED, "introspection depth"),
    "pages of pages": (
        "{ allSeries(first: 100) { items { predictions(first: 100) { items { id series { cutoff } } } } } }",
        "25,000 fields",
    ),
    "fragments of fragments": (
        "{ ...f11 } fragment f0 on Query { alarms { name summary } } " + TWICE,
        "25,000 fields",
    ),
    "a fragment of itself": ("{ ...f } fragment f on Query { ...f }", "within itself"),
    "many words": ("{ " + "champion { version } " * 300 + "}", "1000 tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_query_is_an_error_as_graphql_has_them(asked, case):
    query, said = BAD[case]
    reply = asked("acme", query)
    assert reply.status_code == 200, reply.text
    assert said in reply.json()["errors"][0]["message"]
    assert not reply.json().get("data")


def test_a_body_that_is_no_request_is_a_problem(asked):
    for body, status in (({"query": 1}, 422), ({"query": "x" * 10_001}, 422)):
        assert asked("acme", **body).status_code == status


def test_the_cost_of_the_introspection_query_of_tools_is_within_the_limits():
    graphql_limits.check_cost(parse(get_introspection_query()), {})


def test_without_a_release_it_is_an_error_of_graphql(tmp_path):
    with serving(tmp_path) as server:
        reply = server.client.post("/api/v1/graphql", json={"query": "{ alarms { name } }"})
        assert (reply.status_code, "release" in reply.json()["errors"][0]["message"]) == (200, True)
