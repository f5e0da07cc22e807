"""A form in Prefect for what waits for an approval; the state stays in our journal."""

from typing import Literal

from prefect import flow, get_run_logger, pause_flow_run
from prefect.input import RunInput

from flows._stages import build_run_namer
from tasks.edges.approvals import decide_request, list_requests
from tasks.edges.mlflow_delivery import publish_runs
from tasks.edges.params import read_dataset
from tasks.edges.settings import ROOT
from tasks.promote.apply import approve_release


class ApprovalForm(RunInput):
    """What the button *Resume* of the run asks for.

    decision: as by `tidemill approve` or `tidemill reject`. by: who decides; not the author.
    """

    decision: Literal["approve", "reject"]
    by: str
    reason: str = ""


@flow(
    name="approval",
    flow_run_name=build_run_namer("approval"),
    persist_result=True,
    result_serializer="json",
)
def approval(wait_s: float = 3600, poll_s: float = 10) -> str | None:
    """Pause until a person has filled in the form for the release that waits, and apply it.

    It calls what `tidemill approve` and `reject` call, with the same rules. A run that is killed,
    or is not resumed within *wait_s*, changes nothing: the request still waits. None when none
    does, else the digest of what was decided.
    """
    dataset, logger = read_dataset(ROOT), get_run_logger()
    waiting = [request for request in list_requests(dataset) if request.state == "waiting"]
    if not waiting:
        logger.info("Nothing of %r waits for an approval", dataset)
        return None
    request = waiting[-1]
    logger.info("%s waits, asked for by %s: %s", request.digest[:12], request.author, request.why)
    form = pause_flow_run(wait_for_input=ApprovalForm, timeout=int(wait_s), poll_interval=int(poll_s))
    if form.decision == "reject":
        decide_request(dataset, request, "rejected", form.by, form.reason)
        logger.info("%s is rejected; the champion stays", request.digest[:12])
        return request.digest
    champion = approve_release(dataset, request.digest, form.by, form.reason, ROOT)
    logger.info("Champion: %s", champion.version if champion else "as before")
    publish_runs()
    return request.digest
