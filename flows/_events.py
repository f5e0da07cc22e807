"""The events that Tidemill's flows emit, each with the form of its payload.

`deployments/prefect.yaml` says what an event starts. Their resource is `tidemill.dataset.<name>`.
"""

from typing import ClassVar

from prefect.events import emit_event

from tasks.core.reports.base import IsoTime
from tasks.core.reports.retrain import Recipe
from tasks.core.strict import Strict


class TidemillEvent(Strict):
    """What every payload has.

    NAME: of the event.
    dataset: that it is about.
    as_of: newest `known_at` of the data; for a window, its end.
    """

    NAME: ClassVar[str]
    dataset: str
    as_of: IsoTime


class WindowClosed(TidemillEvent):
    """The feed has closed a window that the chain has not seen.

    n_rows: in it.
    """

    NAME = "tidemill.window.closed"
    n_rows: int


class RowsRefreshed(TidemillEvent):
    """The service and the monitor have other rows.

    n_rows: now.
    n_new: more than before.
    n_quarantined: that break the contract.
    """

    NAME = "tidemill.rows.refreshed"
    n_rows: int
    n_new: int
    n_quarantined: int


class RetrainDue(TidemillEvent):
    """The stage `retrain` wants a training.

    triggers, reason, recipe: as in its decision.
    """

    NAME = "tidemill.retrain.due"
    triggers: tuple[str, ...]
    reason: str
    recipe: Recipe


class RolloutMoved(TidemillEvent):
    """A rollout has risen, or has ended.

    challenger: digest of its release.
    action: `advance`, `promote` or `back`.
    weight: the challenger's share of the series now.
    reason: in a sentence.
    """

    NAME = "tidemill.rollout.moved"
    challenger: str
    action: str
    weight: float
    reason: str


def publish_event(event: TidemillEvent) -> None:
    """Emit *event* to Prefect."""
    resource = {"prefect.resource.id": f"tidemill.dataset.{event.dataset}"}
    emit_event(event.NAME, resource, payload=event.model_dump(mode="json"))
