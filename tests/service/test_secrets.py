"""No secret of a caller is in a table, a log or an error."""

import asyncio
import logging

import httpx
from servers import DATASET, JSON, at

from deployments.forecaster.app import build_app, build_parts
from deployments.forecaster.source import ReleaseSource
from tasks.edges.api_keys import create_key

CANARY = "canary-7f3a9c51"


async def ask(app, requests):
    # An error of the app is an answer here, as it is under a server
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=JSON) as client:
        return [await client.request(**request) for request in requests]


def test_a_planted_secret_is_nowhere(releases, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TIDEMILL_AUTH", "on")
    caplog.set_level(logging.DEBUG)
    with at(tmp_path):
        key = create_key("shop", "acme", ["predict"], [DATASET])
        source = ReleaseSource(releases / "first", DATASET)
        source.load_initial()
        app = build_app(build_parts([source]))
        mine, wrong = {"X-API-Key": key}, {"X-API-Key": f"tm_00000000_{CANARY}"}
        token = {"Authorization": f"Bearer {CANARY}"}
        body = {"series_id": "north"}
        path = "/api/v1/predict"
        replies = asyncio.run(
            ask(
                app,
                [
                    {"method": "POST", "url": path, "json": body, "headers": mine},
                    {"method": "POST", "url": path, "json": body, "headers": mine | token},
                    {"method": "POST", "url": path, "json": body, "headers": wrong},
                    {"method": "POST", "url": path, "json": body, "headers": token},
                    {"method": "POST", "url": path, "json": {"series_id": "nort"}, "headers": mine | token},
                    {"method": "POST", "url": path, "content": "{", "headers": mine | token},
                    {"method": "GET", "url": "/api/v1/predictions/none", "headers": mine | token},
                    {"method": "GET", "url": "/api/v1/nothing", "headers": mine | token},
                ],
            )
        )
        recorded = replies[0].json()["prediction_id"]
        replies += asyncio.run(
            ask(app, [{"method": "GET", "url": f"/api/v1/predictions/{recorded}", "headers": mine | token}])
        )
    assert [reply.status_code for reply in replies] == [200, 200, 401, 401, 404, 400, 404, 403, 200]
    texts = {f"reply {k}": reply.content for k, reply in enumerate(replies)}
    texts["log"] = caplog.text.encode()
    texts |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.endswith(".db") for path in texts), "the store and the keys are looked through"
    assert any(path.endswith(".head") for path in texts)
    for secret in (CANARY, key, key.split("_", 2)[2]):
        assert [name for name, text in texts.items() if secret.encode() in text] == []
