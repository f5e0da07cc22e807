"""Send one message to one address, by apprise; no address is ever printed, logged or kept.

An address is shown by its number in TIDEMILL_ALERTS and its scheme. What apprise reports of a
failure is kept without any part of the address.
"""

import logging
import re
import threading
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from tasks.alerts.store import hash_address
from tasks.core.errors import SettingsError
from tasks.core.objectives import Severity
from tasks.core.reports.alerts import AlertMessage
from tasks.edges.settings import read_settings

if TYPE_CHECKING:
    import apprise

_TYPES: dict[Severity | None, str] = {
    "critical": "failure",
    "warning": "warning",
    "info": "info",
    None: "success",
}


class AlertAddress(NamedTuple):
    """label: its number and scheme, which may be shown. url: the secret. hash: in the outbox."""

    label: str
    url: str
    hash: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"AlertAddress({self.label!r})"


def list_addresses() -> list[AlertAddress]:
    """The addresses of TIDEMILL_ALERTS. Raises SettingsError for one that apprise does not know."""
    urls = read_settings().alerts.get_secret_value().split()
    addresses = []
    for number, url in enumerate(urls, 1):
        match = re.match(r"([a-z0-9]+)://", url, flags=re.IGNORECASE)
        label = f"{number} ({match[1].lower()})" if match else str(number)
        if match is None or _build_client(url) is None:
            raise SettingsError(
                f"Address {label} of TIDEMILL_ALERTS is none that apprise can send to. Addresses are"
                " separated by spaces; docs/how-to/alerts.md has the form of each kind."
            )
        addresses.append(AlertAddress(label, url, hash_address(url)))
    return addresses


def send_message(address: AlertAddress, message: AlertMessage) -> str | None:
    """Send it; None when it was accepted, else why not, without the address."""
    logger, notes = logging.getLogger("apprise"), _Notes()
    logger.addHandler(notes)
    try:
        client = _build_client(address.url)
        assert client is not None, "list_addresses has built it before"
        is_sent = client.notify(body=message.body, title=message.title, notify_type=_TYPES[message.severity])
        fault = None if is_sent else "; ".join(notes.lines) or "it did not accept the message"
    except Exception as error:  # noqa: BLE001  (of any of a hundred services; the message is tried again)
        fault = f"{type(error).__name__}: {error}"
    finally:
        logger.removeHandler(notes)
    return None if fault is None else remove_secrets(fault, address.url)


def remove_secrets(text: str, url: str) -> str:
    """*text* without any part of *url* of at least four characters."""
    _, _, rest = url.partition("://")
    parts = {part for form in (rest, unquote(rest)) for part in re.split(r"[/:@?&=#,+\s]", form)}
    for part in sorted((p for p in parts if len(p) >= 4), key=len, reverse=True):
        text = re.sub(re.escape(part), "***", text, flags=re.IGNORECASE)
    return " ".join(text.split())[:300]


class _Notes(logging.Handler):
    """Keeps warnings and errors of this thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        if record.thread == self._thread:
            self.lines.append(record.getMessage())


def _build_client(url: str) -> "apprise.Apprise | None":
    """apprise with that one address; None when it knows no such address."""
    import apprise

    logging.getLogger("apprise").propagate = False  # its lines may have parts of the address
    logging.getLogger("apprise").addHandler(logging.NullHandler())
    client = apprise.Apprise(asset=apprise.AppriseAsset(storage_mode="memory", app_id="Tidemill"))
    return client if client.add(url) else None
