"""A webhook and an SMTP server that keep what they accept; a clock that a test sets."""

import email
import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller

START = datetime(2026, 1, 1, tzinfo=UTC)
# The loop that `tidemill up` starts, on a root that is its argument
LOOP = """
import sys; from pathlib import Path; from deployments.ops.alert_loop import main
from tasks.edges.command import run_or_exit
run_or_exit(lambda: main(Path(sys.argv[1]), tick_s=0.2))
"""


class Clock:
    def __init__(self):
        self.now = START

    def after(self, **passed):
        self.now += timedelta(**passed)
        return self.now


@contextmanager
def webhook(port=0, status=200):
    """Gives (port, list of the JSON bodies); *status* is the answer."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port, bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Inbox:
    def __init__(self):
        self.mails = []

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802  (aiosmtpd's name)
        self.mails.append(email.message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@contextmanager
def smtp_server(port):
    """Gives the list of the mails that it accepts."""
    inbox = _Inbox()
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield inbox.mails
    finally:
        controller.stop()


def mail_address(port):
    return f"mailto://127.0.0.1:{port}?from=tidemill@example.com&to=oncall@example.com&mode=insecure"
