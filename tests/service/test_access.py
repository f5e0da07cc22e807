"""Who may ask the service what, and what everybody else gets."""

import json
import stat
import time
from datetime import UTC, datetime, timedelta

import pytest
from homes import at_home
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from limits import parse
from servers import DATASET, at, serving
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.forecaster.access import CHECK_S, PUBLIC, SCOPE_OF, MovingWindow
from deployments.forecaster.app import create_app
from deployments.ops.forecaster_process import find_served_dataset
from tasks.core.errors import AccessError, SettingsError
from tasks.edges.api_keys import SCOPES, create_key, find_principal, list_keys, revoke_key

ASK = {"series_id": "north"}
ISSUER, AUDIENCE = "https://login.example", "tidemill"


@pytest.fixture(scope="module")
def signing():
    return RSAKey.generate_key(2048)


@pytest.fixture(scope="module")
def guarded(releases, tmp_path_factory, signing):
    """A service that asks for keys, and one key of each kind."""
    home = tmp_path_factory.mktemp("guarded")
    public = home / "public.pem"
    public.write_bytes(signing.as_pem(private=False))
    with at(home):
        keys = {scope: create_key(scope, "acme", [scope], [DATASET]) for scope in SCOPES}
        keys["elsewhere"] = create_key("elsewhere", "other", ["admin"], ["another_dataset"])
        keys["few"] = create_key("few", "few", ["predict"], ["*"])
    environment = {
        "TIDEMILL_AUTH": "on",
        "TIDEMILL_RATE_LIMIT": "80/minute",
        "TIDEMILL_JWT_KEY": str(public),
        "TIDEMILL_JWT_ISSUER": ISSUER,
        "TIDEMILL_JWT_AUDIENCE": AUDIENCE,
        "TIDEMILL_RELEASE": str(releases / "first"),
    }
    with serving(home, **environment) as server:
        yield server, keys


def ask(server, key=None, method="POST", path="/api/v1/predict", **headers):
    sent = headers if key is None else {"X-API-Key": key, **headers}
    body = json.dumps(ASK) if method == "POST" else None
    return server.client.request(method, path, content=body, headers=sent)


def test_every_route_needs_a_key_with_its_scope(guarded, monkeypatch, tmp_path):
    server, keys = guarded
    for method, path in SCOPE_OF:
        assert ask(server, None, method, path).status_code == 401
        assert ask(server, keys["elsewhere"], method, path).status_code == 404
        allowed = {name for name in SCOPES if ask(server, keys[name], method, path).status_code != 403}
        assert allowed == {SCOPE_OF[method, path], "admin"}


def test_each_route_of_the_app_is_in_the_table_or_needs_admin(guarded):
    server, keys = guarded
    documented = {
        (method.upper(), path)
        for path, methods in create_app().openapi()["paths"].items()
        for method in methods
    }
    assert documented <= set(SCOPE_OF) | PUBLIC
    for path in (
        "/api/v1/unknown",
        "/metrics",
        "/static",
        "/docs.json",
        "//api/v1/models",
        "/api/v1/models/",
        "/api/v1/models/1.0.0/",
        "/api/v1/models/1.0.0/card",
        "/api/v1/models/1/2/monitoring",
    ):
        assert ask(server, None, "GET", path).status_code == 401
        assert ask(server, keys["read"], "GET", path).status_code == 403
    for path in ("/api/v1/models/1.0.0", "/api/v1/models/1.0.0/monitoring"):
        assert ask(server, None, "GET", path).status_code == 401
        assert ask(server, keys["predict"], "GET", path).status_code == 403
        assert ask(server, keys["read"], "GET", path).status_code == 404
    assert server.client.get("/api/v1/health/live").json() == {"live": True}


@pytest.mark.parametrize(
    "key", ["", "tm", "tm_x_y", "tm_00000000_" + "a" * 43, "x" * 5_000, "tm_' OR 1=1 --_x"]
)
def test_a_key_that_is_none_is_refused_in_one_form(guarded, key):
    reply = ask(guarded[0], key)
    assert reply.status_code == 401
    assert reply.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "fact", "rule", "next"} <= set(reply.json())


def test_a_key_of_another_secret_with_a_known_id_is_refused(guarded):
    server, keys = guarded
    identity = keys["predict"].split("_")[1]
    assert ask(server, f"tm_{identity}_{'a' * 43}").status_code == 401


def test_a_revoked_key_is_refused_within_five_seconds(guarded):
    server, _ = guarded
    with at(server.home):
        key = create_key("leaver", "acme", ["predict"], [DATASET])
        assert ask(server, key).status_code == 200
        revoke_key(key.split("_")[1])
    time.sleep(CHECK_S + 0.5)
    assert ask(server, key).status_code == 401


def test_a_caller_has_a_rate_and_others_have_theirs(guarded):
    server, keys = guarded
    statuses = [ask(server, keys["few"]).status_code for _ in range(85)]
    assert statuses.count(200) == 80
    refused = ask(server, keys["few"])
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert ask(server, keys["admin"], "GET", "/api/v1/models").status_code == 200


def make_token(key, header=None, **claims):
    content = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "scope": "predict",
        "datasets": DATASET,
        "exp": int((datetime.now(UTC) + timedelta(minutes=5)).timestamp()),
    } | claims
    content = {name: value for name, value in content.items() if value is not None}
    return jwt.encode(header or {"alg": "RS256"}, content, key)


def test_a_token_of_the_issuer_for_this_service_is_a_key(guarded, signing):
    reply = ask(guarded[0], Authorization=f"Bearer {make_token(signing)}")
    assert reply.status_code == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://login.other"},
        {"iss": None},
        {"aud": "another service"},
        {"aud": None},
        {"exp": 1_700_000_000},
        {"exp": None},
        {"sub": None},
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(guarded, signing, claims):
    assert ask(guarded[0], Authorization=f"Bearer {make_token(signing, **claims)}").status_code == 401


def test_a_token_of_another_key_or_algorithm_is_refused(guarded, signing):
    public = signing.as_pem(private=False)
    forged = (
        make_token(RSAKey.generate_key(2048)),
        make_token(OctKey.import_key(b"x" * 32), {"alg": "HS256"}),
        public.decode().replace("\n", "")[:200],
    )
    for token in forged:
        assert ask(guarded[0], Authorization=f"Bearer {token}").status_code == 401
    assert ask(guarded[0], Authorization=f"Bearer {make_token(signing, scope='read')}").status_code == 403
    assert ask(guarded[0], Authorization=f"Bearer {make_token(signing, datasets='')}").status_code == 404


def test_other_sites_hosts_and_types_are_refused(server):
    """Without keys, as on a laptop: a page that the person has open must not ask in their name."""
    assert ask(server, Origin="https://evil.example").status_code == 403
    assert ask(server, Origin="null").status_code == 403
    assert ask(server, Host="evil.example").status_code == 421
    assert ask(server, **{"Content-Type": "text/plain"}).status_code == 415
    assert ask(server, **{"Content-Type": "application/json; charset=utf-8"}).status_code == 200
    assert ask(server, Origin=str(server.client.base_url).rstrip("/")).status_code == 200
    assert ask(server, Host="localhost:3000").status_code == 200


def test_without_keys_another_machine_is_refused(server):
    """A proxy on this machine names its client; so does this request."""
    assert ask(server, **{"X-Forwarded-For": "203.0.113.9"}).status_code == 401


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 4)), max_size=60), st.integers(1, 4))
def test_a_window_lets_through_what_counting_by_hand_does(calls, n_allowed):
    window, let_through, now_s = MovingWindow(parse(f"{n_allowed}/5 seconds")), [], 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deployments.forecaster.access.time.monotonic", lambda: now_s)
        for caller, pause_s in calls:
            now_s += pause_s
            recent = [time for who, time in let_through if who == caller and time > now_s - 5]
            assert window.hit(None, "tenant", caller) == (len(recent) < n_allowed)
            if len(recent) < n_allowed:
                let_through.append((caller, now_s))
    assert len(window._hits) <= 3


def test_commands_of_this_machine_have_a_key_of_their_own(guarded, monkeypatch):
    server, _ = guarded
    monkeypatch.setenv("TIDEMILL_AUTH", "on")
    monkeypatch.setenv("TIDEMILL_SERVICE_PORT", str(server.client.base_url.port))
    with at(server.home):
        assert find_served_dataset() == DATASET
        assert stat.S_IMODE((server.home / "keys.own").stat().st_mode) == 0o600


def test_a_service_of_tokens_needs_issuer_and_audience(tmp_path, signing, monkeypatch):
    (tmp_path / "public.pem").write_bytes(signing.as_pem(private=False))
    monkeypatch.setenv("TIDEMILL_JWT_KEY", str(tmp_path / "public.pem"))
    with at_home(tmp_path), pytest.raises(SettingsError, match="without TIDEMILL_JWT_ISSUER"):
        create_app().build_middleware_stack()


def test_the_keys_file_holds_no_secret_and_is_of_this_user_alone(tmp_path):
    with at_home(tmp_path) as home:
        key = create_key("a", "t", ["read"], ["*"])
        assert find_principal(key).name == "a"
        secret = key.split("_", 2)[2]
        for path in home.glob("keys*"):
            assert secret.encode() not in path.read_bytes()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        (home / "keys.secret").write_text("another\n")
        assert find_principal(key) is None


def test_keys_by_command(tmp_path):
    runner = CliRunner()
    with at_home(tmp_path):
        made = runner.invoke(
            app,
            [
                "keys",
                "create",
                "shop",
                "--scope",
                "predict",
                "--dataset",
                "meters",
                "--tenant",
                "acme",
                "--json",
            ],
        )
        key = json.loads(made.stdout)
        listed = json.loads(runner.invoke(app, ["keys", "list", "--json"]).stdout)
        assert [(k["id"], k["name"], k["tenant"], k["scopes"]) for k in listed] == [
            (key["id"], "shop", "acme", ["predict"])
        ]
        assert key["key"] not in runner.invoke(app, ["keys", "list"]).stdout
        assert runner.invoke(app, ["keys", "revoke", key["id"]]).exit_code == 0
        assert list_keys()[0].revoked_at is not None
        refused = runner.invoke(app, ["keys", "create", "x", "--scope", "all", "--dataset", "*"])
        assert refused.exit_code == 2
        assert "There is no scope 'all'" in refused.output
        with pytest.raises(AccessError, match="There is no key 'unknown'"):
            revoke_key("unknown")
