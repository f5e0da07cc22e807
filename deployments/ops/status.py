"""`tidemill status`: what is current, who is champion, what was decided last, what runs."""

import json
from pathlib import Path
from typing import Any

from deployments.ops.forecaster_process import find_served_dataset
from deployments.ops.supervisor import read_state
from tasks.edges.current import is_current, read_json_of_dataset
from tasks.edges.params import read_document
from tasks.edges.processes import is_running
from tasks.edges.registry import read_champion
from tasks.edges.settings import ROOT, read_settings

LEDGER = "data/raw/ledger.json"
DECISIONS = {
    "promote": ("data/decisions/promote/decision.json", ("decision", "reason", "as_of")),
    "monitor": ("data/reports/monitor/report.json", ("verdict", "reason", "as_of")),
    "retrain": ("data/decisions/retrain/decision.json", ("due", "reason", "as_of")),
}


def build_status(root: Path = ROOT) -> dict[str, Any]:
    """Everything as plain data, of the current dataset alone; what is not there yet is null.

    served_dataset: what the running service answers for.
    """
    document = read_document(root)
    dataset = document.dataset
    champion = read_champion(dataset)
    ledger = _read_json_file(root / LEDGER) if is_current(LEDGER, dataset, root) else {}
    return {
        "dataset": dataset,
        "models": list(document.list_models()),
        "as_of": ledger.get("as_of"),
        "champion": champion.model_dump(mode="json", exclude={"decision"}) if champion else None,
        "decisions": {
            name: _select_keys(read_json_of_dataset(root / path, dataset), keys)
            for name, (path, keys) in DECISIONS.items()
        },
        "running": _read_running(),
        "served_dataset": find_served_dataset(),
        "home": str(read_settings().home),
    }


def _read_running() -> dict[str, Any]:
    state = read_state()
    if state is None or not is_running(state.supervisor):
        return {}
    return {
        marked.name: {"pid": marked.pid, "address": state.addresses.get(marked.name)}
        for marked in state.parts
        if is_running(marked)
    }


def _select_keys(content: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any] | None:
    return {key: content[key] for key in keys if key in content} or None


def _read_json_file(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content
