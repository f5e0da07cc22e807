"""A WebSocket server that is not to be trusted, and a REST beside it: the ledger is the list of what it says that it has."""

import json
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

START = datetime(2024, 1, 1, tzinfo=UTC)
DROP, SILENCE, STALL = "drop", "silence", "stall"


def message(number):
    """What the server says under *number*: a record a minute."""
    return {"n": number, "series_id": "a", "event_time": (START + timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%SZ"), "x": float(number)}


class Server:
    """scripts: what is done on the first, second, ... connection: a number is sent, a text is sent as it is, a fraction is a pause in seconds, DROP cuts the wire, SILENCE says nothing
    more, STALL answers no ping either. After its script a connection stays open; further ones run the last script.

    rest: the numbers that REST has, at most *page* an answer; before that it gives the statuses of *faults*. listens: else it gives what was not asked for. asked: the ranges that it was asked for.
    """

    def __init__(self, *scripts, rest=(), page=10, faults=(), listens=True):
        self.scripts, self.rest, self.page, self.faults = list(scripts), set(rest), page, list(faults)
        self.listens = listens
        self.asked, self.n_connections, self.received = [], 0, []
        self._stop, self._open = threading.Event(), []

    def __enter__(self):
        self._socket = serve(self._talk, "127.0.0.1", 0, ping_interval=None, close_timeout=0.2)
        outer = self

        class Rest(BaseHTTPRequestHandler):
            def do_GET(self):
                outer._answer(self)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Rest)
        loops = (self._socket.serve_forever, partial(self._http.serve_forever, poll_interval=0.01))
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._socket.shutdown()
        for connection in self._open:
            with suppress(OSError):
                connection.socket.shutdown(SHUT_RDWR)
        self._http.shutdown()
        self._http.server_close()
        for thread in self._threads:
            thread.join()

    @property
    def url(self):
        return f"ws://127.0.0.1:{self._socket.socket.getsockname()[1]}/stream"

    @property
    def backfill_url(self):
        return f"http://127.0.0.1:{self._http.server_address[1]}/range?first={{first}}&last={{last}}"

    def _talk(self, connection):
        script = self.scripts[min(self.n_connections, len(self.scripts) - 1)]
        self.n_connections += 1
        self._open.append(connection)
        try:
            for step in script:
                if step == DROP:
                    connection.socket.shutdown(SHUT_RDWR)
                    return
                if step == STALL:
                    with connection.protocol_mutex:  # whoever reads pings waits for it
                        self._stop.wait(20)
                    return
                if step == SILENCE:
                    break
                if isinstance(step, float):
                    time.sleep(step)
                    continue
                connection.send(json.dumps(message(step)) if isinstance(step, int) else step)
            for said in connection:
                self.received.append(said)
        except (ConnectionClosed, OSError):
            pass

    def _answer(self, request):
        asked = parse_qs(urlsplit(request.path).query)
        first, last = (int(asked[name][0]) for name in ("first", "last"))
        self.asked.append((first, last))
        status = self.faults.pop(0) if self.faults else 200
        wanted = range(first, last + 1) if self.listens else range(last + 1, last + self.page)
        found = [message(n) for n in wanted if n in self.rest][: self.page]
        body = json.dumps(found).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
