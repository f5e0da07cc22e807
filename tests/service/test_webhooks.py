"""Webhooks at the end of jobs, against a real HTTP server that fails, hangs and redirects."""

import contextlib
import json
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from homes import at_home
from how_to_blocks import list_blocks
from servers import DATASET, serving
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError
from test_job_loop import make_job
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.webhook_urls import check_webhook_url, is_allowed_address
from deployments.ops import webhooks
from deployments.ops.webhooks import deliver_next
from tasks.edges.api_keys import create_key, find_webhook_secret, make_webhook_secret
from tasks.edges.jobs import open_jobs

NO_PAUSE = (0.0,) * 6


class Receiver(BaseHTTPRequestHandler):
    """Answers the statuses of `server.answers` one by one, and keeps what it got."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, dict(self.headers.items()), body))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status is None:
            self.drip()
            return
        self.send_response(status)
        if status in {301, 302, 307, 308}:
            self.send_header("location", f"{self.server.address}/elsewhere")
        self.send_header("content-length", "100000000")  # which is never sent, and not waited for
        self.end_headers()

    def drip(self):
        """A head that never ends, so that no wait for a byte is long."""
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
            for _ in range(30):
                self.wfile.write(b"x")
                time.sleep(0.1)

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.answers, server.received = [], []
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path):
    with at_home(tmp_path, TIDEMILL_WEBHOOK_PRIVATE="allow") as home:
        make_webhook_secret("acme")
        yield home


def end_job(url, name="a"):
    with open_jobs() as store:
        store.add(make_job(name), url)
        assert not deliver_next(NO_PAUSE)  # not before its end
        store.finish(store.start_next(), {})


def find_webhook(name="a"):
    with open_jobs() as store:
        return store.find_webhooks([name])[name]


def test_a_signed_call_is_tried_again_until_it_is_accepted(receiver, home):
    receiver.answers = [500, 429]
    end_job(f"{receiver.address}/hook?x=1")
    faults = []
    while deliver_next(NO_PAUSE):
        faults.append(find_webhook().fault)
    assert faults == ["it answered 500", "it answered 429", None]
    assert find_webhook()[2:4] == ("delivered", 3)
    verifier = Webhook(find_webhook_secret("acme"))
    assert len({headers["webhook-id"] for _, headers, _ in receiver.received}) == 1
    for path, headers, body in receiver.received:
        assert path == "/hook?x=1"
        content = verifier.verify(body, headers)
        assert (content["type"], content["data"]["job_id"]) == ("job.done", "a")
        with pytest.raises(WebhookVerificationError):
            verifier.verify(body.replace(b"job.done", b"job.fail"), headers)
    (example,) = (text for _, text in list_blocks("jobs-and-webhooks") if "def read_call" in text)
    space = {}
    exec(example, space)
    assert space["read_call"](body, headers, find_webhook_secret("acme")) == content
    make_webhook_secret("acme")
    with pytest.raises(WebhookVerificationError):
        Webhook(find_webhook_secret("acme")).verify(body, headers)


def test_a_redirect_is_a_failure_and_is_not_followed(receiver, home):
    receiver.answers = [302, 308]
    end_job(receiver.address)
    assert deliver_next(NO_PAUSE)
    assert find_webhook().fault == "it answered 302; redirects are not followed"
    assert deliver_next(NO_PAUSE)
    assert [path for path, _, _ in receiver.received] == ["/", "/"]


def test_it_gives_up_after_the_last_attempt_and_immediately_when_it_is_gone(receiver, home):
    receiver.answers = [500] * 6 + [410]
    end_job(receiver.address)
    while deliver_next(NO_PAUSE):
        pass
    assert find_webhook()[2:4] == ("failed", 6)
    end_job(receiver.address, "b")
    while deliver_next(NO_PAUSE):
        pass
    assert find_webhook("b")[2:4] == ("failed", 1)
    assert len(receiver.received) == 7


def test_the_pauses_are_kept_over_hours_in_the_store(receiver, home):
    receiver.answers = [500]
    end_job(receiver.address)
    assert deliver_next()
    assert not deliver_next()
    assert 4 < find_webhook().due_at - time.time() < 6
    assert sum(webhooks.PAUSES_S) > 7 * 3600


def test_an_address_that_hangs_or_is_not_there_is_a_fault(receiver, home, monkeypatch):
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.3)
    receiver.answers = [None]
    end_job(receiver.address)
    began = time.monotonic()
    assert deliver_next(NO_PAUSE)
    assert time.monotonic() - began < 2
    assert find_webhook().fault is not None
    assert deliver_next(NO_PAUSE)
    assert find_webhook().state == "delivered"
    end_job("http://127.0.0.1:9/", "b")
    while deliver_next(NO_PAUSE):
        pass
    assert "refused" in find_webhook("b").fault


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("64:ff9b::5db8:d70e", True),
    ],
)
def test_private_addresses_are_refused_in_every_form(tmp_path, address, allowed):
    with at_home(tmp_path):
        assert is_allowed_address(address) is allowed
    with at_home(tmp_path, TIDEMILL_WEBHOOK_PRIVATE="allow"):
        assert is_allowed_address(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "https://",
        "https://user:word@example.com/",
        "https://example.com/#part",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]:8443/",
        "https://example.com:99999/",
        "https://[oops/",
        "https://ex\u00e4mple.com/",
        "hook",
    ],
)
def test_a_url_that_a_webhook_must_not_have_is_refused(tmp_path, url):
    with at_home(tmp_path), pytest.raises(ProblemError) as caught:
        check_webhook_url(url)
    assert (caught.value.status, caught.value.body["thing"]) == (422, "webhook")


def test_a_name_of_this_machine_is_refused_when_it_is_resolved(receiver, tmp_path, monkeypatch):
    """The name passes by its text; what it resolves to does not."""
    port = receiver.server_address[1]
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: here)
    with at_home(tmp_path):
        make_webhook_secret("acme")
        end_job(f"https://hooks.example.com:{port}/")
        assert deliver_next(NO_PAUSE)
        assert "127.0.0.1, of this machine" in find_webhook().fault
    assert receiver.received == []


def write_certificate(path, name):
    """A certificate that signs itself, and its key, in one file."""
    key, subject = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
    )
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, *plain))


def test_over_tls_the_certificate_must_be_of_the_name(receiver, home, monkeypatch):
    certificate = home / "certificate.pem"
    write_certificate(certificate, "hooks.example.com")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
    port = receiver.server_address[1]
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: here)
    for name, fault in [("hooks.example.com", None), ("other.example.com", "mismatch")]:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        end_job(f"https://{name}:{port}/", name)
        assert deliver_next((0.0,))
        found = find_webhook(name)
        assert (found.fault is None) if fault is None else (fault in found.fault), found
    end_job(f"https://hooks.example.com:{port}/", "unknown issuer")
    monkeypatch.delenv("SSL_CERT_FILE")
    assert deliver_next((0.0,))
    assert "certificate" in find_webhook("unknown issuer").fault
    assert [headers["host"] for _, headers, _ in receiver.received] == [f"hooks.example.com:{port}"]


def test_over_http_a_webhook_needs_a_secret_and_its_state_is_in_the_job(releases, receiver, tmp_path):
    environment = {"TIDEMILL_AUTH": "on", "TIDEMILL_WEBHOOK_PRIVATE": "allow"}
    with (
        serving(tmp_path, TIDEMILL_RELEASE=str(releases / "first"), **environment) as server,
        at_home(tmp_path, TIDEMILL_WEBHOOK_PRIVATE="allow"),
    ):
        key = {"x-api-key": create_key("ann", "acme", ["predict"], [DATASET])}
        body = {"kind": "backtest", "webhook": receiver.address}
        with open_jobs() as store:
            store.write_heartbeat()
        refused = server.client.post("/api/v1/jobs", json=body, headers=key)
        assert (refused.status_code, refused.json()["thing"]) == (422, "webhook")
        made = CliRunner().invoke(app, ["keys", "webhook-secret", "acme", "--json"])
        secret = json.loads(made.stdout)["secret"]
        job = server.client.post("/api/v1/jobs", json=body, headers=key).json()
        assert job["webhook"]["state"] == "waiting"
        assert server.client.delete(f"/api/v1/jobs/{job['job_id']}", headers=key).status_code == 200
        assert deliver_next()
        found = server.client.get(f"/api/v1/jobs/{job['job_id']}", headers=key).json()
        assert found["webhook"] == {**job["webhook"], "state": "delivered", "n_attempts": 1}
        ((_, headers, content),) = receiver.received
        assert Webhook(secret).verify(content, headers)["type"] == "job.cancelled"
