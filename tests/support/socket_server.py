"""A WebSocket server that is not reliable, and a REST: the ledger is the list of what it has."""

import json
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from socket import SHUT_RDWR
from urllib.parse import parse_qs, urlsplit

from rest import Rest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

START = datetime(2024, 1, 1, tzinfo=UTC)
DROP, SILENCE, STALL = "drop", "silence", "stall"


def message(number):
    """What the server says under *number*: a record a minute."""
    return {
        "n": number,
        "series_id": "a",
        "event_time": (START + timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "x": float(number),
    }


class Server:
    """A server that runs a script on each connection.

    scripts: of the first, second, ... connection; further ones run the last. A number is sent as
    its record, a text as it is, a fraction is a pause in seconds, DROP cuts the wire, SILENCE sends
    nothing more, STALL answers no ping either. After its script a connection stays open.
    rest: the numbers that REST has, at most *page* an answer.
    faults: statuses that REST gives first.
    listens: else REST gives what was not asked for.
    """

    def __init__(self, *scripts, rest=(), page=10, faults=(), listens=True):
        self.scripts, self.rest, self.page, self.faults = list(scripts), set(rest), page, list(faults)
        self.listens = listens
        self.asked, self.n_connections, self.received = [], 0, []
        self._stop, self._open = threading.Event(), []

    def __enter__(self):
        self._socket = serve(self._talk, "127.0.0.1", 0, ping_interval=None, close_timeout=0.2)
        self._thread = threading.Thread(target=self._socket.serve_forever, daemon=True)
        self._thread.start()
        self._rest = Rest(self._answer)
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._socket.shutdown()
        for connection in self._open:
            with suppress(OSError):
                connection.socket.shutdown(SHUT_RDWR)
        self._rest.stop()
        self._thread.join()

    @property
    def url(self):
        return f"ws://127.0.0.1:{self._socket.socket.getsockname()[1]}/stream"

    @property
    def backfill_url(self):
        return f"{self._rest.url}/range?first={{first}}&last={{last}}"

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
                    with connection.protocol_mutex:  # the thread that reads pings waits for it
                        self._stop.wait(20)
                    return
                if step == SILENCE:
                    break
                if isinstance(step, float):
                    time.sleep(step)
                    continue
                connection.send(json.dumps(message(step)) if isinstance(step, int) else step)
            for message_ in connection:
                self.received.append(message_)
        except (ConnectionClosed, OSError):
            pass

    def _answer(self, path):
        asked = parse_qs(urlsplit(path).query)
        first, last = (int(asked[name][0]) for name in ("first", "last"))
        self.asked.append((first, last))
        status = self.faults.pop(0) if self.faults else 200
        wanted = range(first, last + 1) if self.listens else range(last + 1, last + self.page)
        return status, [message(n) for n in wanted if n in self.rest][: self.page]
