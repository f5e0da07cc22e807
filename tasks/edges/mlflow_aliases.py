"""The alias `champion` in MLflow: a person may move it there, and the service does not follow."""

import json
import urllib.parse

from tasks.edges.processes import fetch_url
from tasks.edges.registry import read_champion
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings
from tasks.edges.tracking import list_pending_entries


def find_moved_alias(dataset: str) -> str | None:
    """A sentence when MLflow's alias names another release than the registry, else None.

    None also while no MLflow answers over HTTP, an entry waits, or there is no champion.
    """
    settings, champion = read_settings(), read_champion(dataset)
    if champion is None or list_pending_entries():
        return None
    is_shared = settings.mlflow_uri.startswith("http")
    address = settings.mlflow_uri if is_shared else f"http://{settings.host}:{settings.mlflow_port}"
    query = urllib.parse.urlencode({"name": encode_name(dataset), "alias": "champion"})
    answer = fetch_url(f"{address.rstrip('/')}/api/2.0/mlflow/registered-models/alias?{query}")
    if answer is None:
        return None
    try:
        version = json.loads(answer)["model_version"]
        tags = {tag["key"]: tag["value"] for tag in version.get("tags", ())}
    except (ValueError, LookupError, TypeError):  # another program has the port
        return None
    if tags.get("tidemill.digest") == champion.digest:
        return None
    return (
        f"the alias `champion` of {encode_name(dataset)!r} is at version {version['version']}, release"
        f" {tags.get('tidemill.digest', 'without a digest')[:12]}, and the registry's champion is"
        f" {champion.version}, {champion.digest[:12]}"
    )
