"""`python -m flows.alarms`: emit the events in standard input as Prefect events `tidemill.alarm`.

A process of its own, so that the loop which looks for alarms need not hold Prefect. It ends with 0
once the server has accepted them.
"""

import sys
from collections.abc import Sequence

from pydantic import TypeAdapter

from tasks.core.reports.alerts import AlarmEvent

ALARM = "tidemill.alarm"


def emit_alarms(events: Sequence[AlarmEvent]) -> None:
    """Emit *events*; on return the server has accepted them. Raises what Prefect's client raises.

    The id of an event follows from its alarm, so that a repeat is no second event.
    """
    from uuid import NAMESPACE_URL, uuid5

    from prefect import get_client
    from prefect.events import Event, Resource

    with get_client(sync_client=True) as client:
        sent = [
            Event(
                id=uuid5(NAMESPACE_URL, event.model_dump_json()),
                event=ALARM,
                occurred=event.closed_at or event.opened_at,  # type: ignore[arg-type]  # pydantic converts it
                resource=Resource({"prefect.resource.id": build_resource_id(event)}),
                payload=event.model_dump(mode="json"),
            ).model_dump(mode="json")
            for event in events
        ]
        client.request("POST", "/events", json=sent)


def build_resource_id(event: AlarmEvent) -> str:
    """`tidemill.dataset.<dataset>`, or `tidemill.machine`."""
    return f"tidemill.dataset.{event.dataset}" if event.dataset else "tidemill.machine"


def main() -> None:
    """Emit the JSON list of AlarmEvent in standard input."""
    emit_alarms(TypeAdapter(tuple[AlarmEvent, ...]).validate_json(sys.stdin.read()))


if __name__ == "__main__":
    main()
