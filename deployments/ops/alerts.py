"""`tidemill alerts`: open alarms, what waits for each address, a test of the addresses."""

import socket

from tasks.alerts.send import list_addresses, send_message
from tasks.alerts.store import PREFECT, AddressState, open_store
from tasks.core.errors import SettingsError
from tasks.core.reports.alerts import AlertMessage, OpenAlarm
from tasks.core.reports.base import IsoTime
from tasks.core.strict import Strict


class AddressStatus(Strict):
    """An address by its number and scheme. fault: of the last attempt at what waits."""

    address: str
    n_waiting: int
    fault: str | None


class AlertsStatus(Strict):
    """looked_at: when `up` looked for alarms last; None: never."""

    looked_at: IsoTime | None
    alarms: tuple[OpenAlarm, ...]
    addresses: tuple[AddressStatus, ...]


class AddressResult(Strict):
    """fault: why it did not accept the message; None when it did."""

    address: str
    fault: str | None


def read_alerts_status() -> AlertsStatus:
    """Read open alarms and the outbox."""
    addresses = {**{a.hash: a.label for a in list_addresses()}, PREFECT: "Prefect's events"}
    with open_store() as store:
        states, alarms, looked_at = (
            store.read_address_states(),
            store.list_open(),
            store.find_last_tick(),
        )
    return AlertsStatus(
        looked_at=looked_at,
        alarms=tuple(alarms),
        addresses=tuple(
            AddressStatus(address=label, **states.get(key, AddressState(0, None))._asdict())
            for key, label in addresses.items()
        ),
    )


def send_test_messages() -> list[AddressResult]:
    """Send a message to each address, and wait for it.

    Raises SettingsError without any address.
    """
    addresses = list_addresses()
    if not addresses:
        raise SettingsError(
            "TIDEMILL_ALERTS is not set, so alerts are sent nowhere. Set it to addresses, separated by"
            " spaces; docs/how-to/alerts.md has the form of each kind."
        )
    body = f"This is a test from {socket.gethostname()}. Nothing is wrong, and there is nothing to do."
    message = AlertMessage(title="Tidemill: test of alerts", body=body, severity="info")
    return [AddressResult(address=a.label, fault=send_message(a, message)) for a in addresses]
